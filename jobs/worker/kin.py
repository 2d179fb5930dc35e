"""Shards that find the kin of a layer's tokens, for jobs that compare a head's scores with look-alikes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from qkatlas.cluster.executor import Grant
from qkatlas.jobs.loop.step import Produced
from qkatlas.jobs.worker.prepared import prepared_keys
from qkatlas.jobs.worker.tables import kin_table
from qkatlas.outputs.places.folder import Folder
from qkatlas.outputs.runs.part import Part, read_part, table_of
from qkatlas.outputs.runs.reader import list_matrix, read_parts
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.shard import Shard
from qkatlas.pipeline.circuit.kin import nearest


@dataclass(frozen=True)
class UnitStates:
    """States of a layer's tokens, divided by their length, and what they were made from."""

    unit_VD: np.ndarray
    made_from: str
    """Hash of the states."""

    def identity(self) -> str:
        """Hash of the states."""
        return self.made_from


def find_kin(grant: Grant, shard: Shard, states: UnitStates, each: None) -> Produced:
    """Find the kin of one shard's tokens; runs on a worker.

    Args:
        grant: what the worker may use.
        shard: one of `kin_shards`.
        states: of the layer.
        each: nothing more.
    """
    keys = prepared_keys(f"kin {states.made_from}", states.unit_VD, grant.device)
    ids_RN, cosines_RN = nearest(keys, shard.rows, threads=grant.cpus)
    token_ids_R = np.arange(shard.rows.start, shard.rows.stop, dtype=np.int32)
    return Produced({"kin": kin_table(token_ids_R, ids_RN, cosines_RN)})


def found_kin(folder: Folder, part: Part) -> pa.Table:
    """What another run found from the same states; written again, it has the same bytes as if it were found again.

    Args:
        folder: of the other run.
        part: its part.

    Raises:
        OSError: if the part cannot be read, or is not what it was.
    """
    found = table_of(read_part(folder, part))
    # Put together anew: a file's lists name their entries otherwise than ours, and would be written with that name.
    return kin_table(found["token_id"].to_numpy(), list_matrix(found, "kin_ids"), list_matrix(found, "cosines"))


def kin_parts(run: Run, shards: Sequence[Shard], inputs: str) -> dict[str, Part] | None:
    """The parts with the committed kin of a layer.

    Args:
        run: the run.
        shards: all `kin_shards` of the layer.
        inputs: what their receipts must say they were computed from.

    Returns:
        The part of each shard, by its name; None unless all are there.
    """
    receipts = run.receipts()
    if any(shard.name not in receipts or receipts[shard.name].inputs != inputs for shard in shards):
        return None
    return {shard.name: receipts[shard.name].parts[0] for shard in shards}


def committed_kin(run: Run, shards: Sequence[Shard], inputs: str, vocab_size: int) -> np.ndarray | None:
    """The committed kin of a layer.

    Args:
        run: the run.
        shards: all `kin_shards` of the layer.
        inputs: what their receipts must say they were computed from.
        vocab_size: V.

    Returns:
        int32 [V, N]; None unless all of it is there.
    """
    parts = kin_parts(run, shards, inputs)
    if parts is None:
        return None
    if not shards:
        return np.empty((vocab_size, 0), np.int32)
    return list_matrix(read_parts(run, list(parts.values())), "kin_ids")
