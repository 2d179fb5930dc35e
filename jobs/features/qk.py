"""What a features run computes on workers for one head that reads a dictionary's residual stream.

Shapes: V vocabulary, D model, R rows, K keys.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from qkatlas.cluster.executor import Grant
from qkatlas.jobs.loop.step import Produced
from qkatlas.outputs.runs.shard import Shard
from qkatlas.outputs.schemas import features as schemas
from qkatlas.pipeline.circuit.projection import HeadWeights
from qkatlas.pipeline.features.meeting import meet, real_pairs, typical_scales
from qkatlas.pipeline.features.on_text import DictionaryOnText
from qkatlas.pipeline.models.rotary import Offsets


@dataclass(frozen=True, kw_only=True)
class LayerReading:
    """What the heads that read a dictionary share.

    Attributes:
        layer: the dictionary on the text.
        states_VD: float32 [V, D], every token's state in front of the layer.
        states_from: hash of what these were made from.
        offset: positions from key to query; None where positions are learned.
    """

    layer: DictionaryOnText
    states_VD: np.ndarray
    offset: Offsets | None

    def identity(self) -> str:
        """Hash of all that the rest follows from."""
        digest = hashlib.sha256(f"{self.layer.identity()} {self.offset}".encode())
        digest.update(np.ascontiguousarray(self.states_VD).data)
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class HeadReading:
    """One head, and how many keys of each row are kept."""

    weights: HeadWeights
    kept: int


def read_head(grant: Grant, shard: Shard, shared: LayerReading, task: HeadReading) -> Produced:
    """Let a head's features and tokens meet, and take real pairs apart; runs on a worker, on CPUs.

    Args:
        grant: what the worker may use.
        shard: the head.
        shared: what the heads of its layer share.
        task: the head.
    """
    layer, weights, threads = shared.layer, task.weights, grant.cpus
    typical = typical_scales(weights, layer, threads=threads)
    place = shard.bounds["layer"], shard.bounds["head"]
    met = meet(weights, layer, shared.states_VD, typical, offset=shared.offset, kept=task.kept, threads=threads)
    pieces = [
        _rows(place, kind, of_kind.ids_RK, of_kind.scores_RK, task.kept)
        for kind, of_kind in zip(schemas.KINDS, met, strict=True)
    ]
    row = {
        "layer": place[0], "head": place[1], "scale_query": typical.query, "scale_key": typical.key,
        **real_pairs(weights, layer, threads=threads),
    }  # fmt: skip
    return Produced({"qk": pa.concat_tables(pieces)}, {"row": row}, {"device": "cpu"})


def _rows(place: tuple[int, int], kind: str, ids_RK: np.ndarray, scores_RK: np.ndarray, kept: int) -> pa.Table:
    """Rows of one kind; where there are fewer keys than are kept, lists are filled with nulls."""
    count, width = ids_RK.shape
    lists = []
    for values_RK in (ids_RK, scores_RK):
        filled_RK = np.zeros((count, kept), values_RK.dtype)
        filled_RK[:, :width] = values_RK
        missing_RK = np.broadcast_to(np.arange(kept) >= width, filled_RK.shape)
        flat = pa.array(filled_RK.reshape(-1), mask=missing_RK.reshape(-1))
        lists.append(pa.FixedSizeListArray.from_arrays(flat, kept))
    columns = [
        *(pa.array(np.full(count, number, np.int32)) for number in place),
        pa.array([kind] * count, pa.string()),
        pa.array(np.arange(count, dtype=np.int32)),
        *lists,
    ]
    return pa.Table.from_arrays(columns, schema=schemas.qk(kept))
