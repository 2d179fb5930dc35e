"""What a full-vocab run computes on its workers: ranges of rows, and the best keys that hubs are found among."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from qkatlas.cluster.executor import Grant
from qkatlas.jobs.loop.digest import digest_of
from qkatlas.jobs.loop.step import Produced
from qkatlas.jobs.loop.table import Table
from qkatlas.jobs.worker.ov import ov_tables, score_written
from qkatlas.jobs.worker.prepared import Rows, prepared_keys
from qkatlas.jobs.worker.tables import self_table, topk_table
from qkatlas.outputs.runs.layout import OF_HEAD
from qkatlas.outputs.runs.reader import read_parts
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.shard import Shard
from qkatlas.outputs.schemas import scores as schemas
from qkatlas.pipeline.circuit.hubs import Hubs, without_keys
from qkatlas.pipeline.circuit.ov import OvInputs
from qkatlas.pipeline.circuit.projection import HeadInputs
from qkatlas.pipeline.scoring.engine import score_rows
from qkatlas.pipeline.scoring.rows import RowScores

_BEST = "best"

BEST = Table(
    name="best", rows="one row a query token", schema=schemas.BEST, file=f"best/{OF_HEAD}", kinds=(_BEST,),
    when="--exclude-hubs",
)  # fmt: skip


@dataclass(frozen=True)
class Sides:
    """What is multiplied, for every token: of attention, and of what is written; None where it is not asked for."""

    attended: HeadInputs | None
    written: OvInputs | None

    def identity(self) -> str:
        """SHA-256 of what is there; of attention alone it is that of queries, keys and scale."""
        return digest_of(self.attended if self.written is None else (self.attended, self.written))


@dataclass(frozen=True, kw_only=True)
class RowsWithoutHubs:
    """What is multiplied, and the keys that lists of attended ones leave out.

    Attributes:
        rows: what is multiplied.
        hub_ids_N: int32 [N].
    """

    rows: Rows[Sides]
    hub_ids_N: np.ndarray

    def identity(self) -> str:
        """SHA-256 of both."""
        return hashlib.sha256(self.rows.made_from.encode() + self.hub_ids_N.tobytes()).hexdigest()


def best_shards(rows: Sequence[Shard]) -> list[Shard]:
    """Shards that find the best keys of the rows of others; a group of their own, for they know of no hubs."""
    return [replace(shard, name=f"{shard.name}-{_BEST}", group=f"{shard.group}-{_BEST}", kind=_BEST) for shard in rows]


def found_hubs(run: Run, shards: Sequence[Shard], share: float, *, made_from: str | None = None) -> Hubs | None:
    """The hubs among the committed best keys.

    Args:
        run: the run.
        shards: all `best_shards`.
        share: of the rows, from which their best key is a hub.
        made_from: what the receipts must say that they were computed from; None = whatever it was.

    Returns:
        The hubs; None unless all best keys are there.
    """
    parts = run.parts_of(shards, made_from=made_from)
    return None if parts is None else Hubs.among(read_parts(run, parts)["key_id"].to_numpy(), share)


def find_best(grant: Grant, shard: Shard, rows: Rows[Sides], each: None) -> Produced:
    """Find the best key of each row of a range; runs on a worker."""
    scores = _scored(grant, shard, rows, 1)
    columns = [pa.array(_token_ids(shard)), pa.array(scores.key_ids_RK[:, 0])]
    return Produced({_BEST: pa.Table.from_arrays(columns, schema=schemas.BEST)})


def score_shard(grant: Grant, shard: Shard, rows: Rows[Sides], k: int) -> Produced:
    """Score one range of rows; runs on a worker.

    Args:
        grant: what the worker may use.
        shard: the range.
        rows: queries and keys of the whole vocabulary, values and outputs.
        k: keys kept for each.
    """
    started = time.perf_counter()
    scores = None if rows.inputs.attended is None else _scored(grant, shard, rows, k)
    return _produced(grant, shard, scores, rows, k, started)


def score_without_hubs(grant: Grant, shard: Shard, shared: RowsWithoutHubs, k: int) -> Produced:
    """The same with some keys left out of the lists of attended ones, and of nothing else; runs on a worker."""
    started = time.perf_counter()
    scores = _scored(grant, shard, shared.rows, k + len(shared.hub_ids_N))
    return _produced(grant, shard, without_keys(scores, shared.hub_ids_N, k), shared.rows, k, started)


def _scored(grant: Grant, shard: Shard, rows: Rows[Sides], k: int) -> RowScores:
    inputs = rows.inputs.attended
    assert inputs is not None, "attention is asked for"
    keys = prepared_keys(rows.made_from, inputs.keys_VH, grant.device)
    return score_rows(
        inputs.queries_VH[shard.rows], keys, row_ids_R=_token_ids(shard), k=k, scale=inputs.scale, threads=grant.cpus
    )


def _token_ids(shard: Shard) -> np.ndarray:
    return np.arange(shard.rows.start, shard.rows.stop, dtype=np.int32)


def _produced(
    grant: Grant, shard: Shard, scores: RowScores | None, rows: Rows[Sides], k: int, started: float
) -> Produced:
    """The tables of attention, if it is asked for, and of what is written, if that is, which is scored here."""
    token_ids_R, written = _token_ids(shard), rows.inputs.written
    tables: dict[str, pa.Table] = {}
    pairs = 0
    if rows.inputs.attended is not None:
        assert scores is not None, "it is asked for"
        tables |= {"topk": topk_table(token_ids_R, scores), "self": self_table(token_ids_R, scores)}
        pairs += len(token_ids_R) * len(rows.inputs.attended.keys_VH)
    if written is not None:
        outputs = prepared_keys(rows.made_from, written.outputs_VH, grant.device, use="outputs")
        values_RH = written.values_VH[shard.rows]
        tables |= ov_tables(token_ids_R, score_written(values_RH, outputs, token_ids_R, k=k, threads=grant.cpus))
        pairs += 2 * len(token_ids_R) * len(written.outputs_VH)
    measures = {"scoring_seconds": round(time.perf_counter() - started, 4), "scores": pairs}
    return Produced(tables, {}, measures)
