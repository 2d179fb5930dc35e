"""What a features run computes on workers for one head that reads a dictionary's residual stream.

Shapes: W windows, T positions, F features, V vocabulary, D model, H head dimension, K keys, C parts of a state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from qkatlas.cluster.executor import Grant
from qkatlas.jobs.features.work import LayerDictionary, activations
from qkatlas.jobs.loop.step import Produced
from qkatlas.outputs.runs.shard import Shard
from qkatlas.outputs.schemas import features as schemas
from qkatlas.pipeline.circuit.projection import HeadWeights, head_inputs, unturned
from qkatlas.pipeline.features.encoder import Encoder
from qkatlas.pipeline.features.qk import (
    ERROR,
    KEY,
    QUERY,
    TypicalScales,
    feature_vectors,
    side_parts,
    taken_apart,
)
from qkatlas.pipeline.models.rotary import Offsets
from qkatlas.pipeline.scoring.engine import best_keys
from qkatlas.pipeline.scoring.rows import PreparedKeys

PAIRS = 64
"""Pairs of the text that are taken apart, evenly over windows, destinations and distances."""


@dataclass(frozen=True, kw_only=True)
class LayerReading:
    """What the heads that read a dictionary share.

    Attributes:
        layer: the dictionary on the text.
        states_VD: float32 [V, D], every token's state in front of the layer.
        states_from: hash of what these were made from.
        offset: positions from key to query; None where positions are learned.
    """

    layer: LayerDictionary
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
    x_PD = activations(layer, threads=threads)
    typical = TypicalScales.of(weights, x_PD)
    encoder = layer.encoder
    written_FD = encoder.written(slice(0, layer.config.d_sae))
    queries_FH, keys_FH = (feature_vectors(weights, side, written_FD, typical, shared.offset) for side in (QUERY, KEY))
    tokens = head_inputs(weights, shared.states_VD, offset=shared.offset, threads=threads)
    of_tokens, of_features = PreparedKeys(tokens.keys_VH), PreparedKeys(keys_FH)
    place = shard.bounds["layer"], shard.bounds["head"]
    pieces = []
    for kind, rows_RH, keys in zip(
        schemas.KINDS, (queries_FH, tokens.queries_VH, queries_FH), (of_tokens, of_features, of_features), strict=True
    ):
        kept = min(task.kept, keys.vocabulary_size)
        ids_RK, dots_RK = best_keys(rows_RH, keys, k=kept, threads=threads)
        scores_RK = (dots_RK.astype(np.float64) * weights.scale).astype(np.float32)
        pieces.append(_rows(place, kind, ids_RK, scores_RK, task.kept))
    row = {
        "layer": place[0], "head": place[1], "scale_query": typical.query, "scale_key": typical.key,
        **_pairs(weights, encoder, layer, x_PD),
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


def _pairs(weights: HeadWeights, encoder: Encoder, layer: LayerDictionary, x_PD: torch.Tensor) -> dict[str, object]:
    """What real scores are made of, over some pairs of the text."""
    windows, length = layer.tokens_WT.shape
    limit_P = None if layer.limit_P is None else torch.from_numpy(layer.limit_P)
    drawn = [_pair(number, windows, length) for number in range(min(PAIRS, windows * (length - 1)))]
    parts, score_Q, gap = [], [], 0.0
    for window, n, i in drawn:
        at_n, at_i = (window * (length - 1) + position - 1 for position in (n, i))
        sides = []
        for side, row, position in ((QUERY, at_n, n), (KEY, at_i, i)):
            _, parts_CD = taken_apart(encoder, x_PD, row, limit_P)
            sides.append(side_parts(weights, side, x_PD[row], parts_CD, position))
        score_CC = sides[0] @ sides[1].T * weights.scale
        score = _score(weights, x_PD[at_n], x_PD[at_i], n, i)
        gap = max(gap, abs(float(score_CC.sum()) - score))
        of_features = score_CC[:-2, :-2].sum()
        with_error = score_CC[ERROR].sum() + score_CC[:, ERROR].sum() - score_CC[ERROR, ERROR]
        parts.append([float(of_features), float(score_CC.sum() - of_features - with_error), float(with_error)])
        score_Q.append(score)
    return {
        "pairs": len(drawn), "gap": gap, "score_std": float(np.std(score_Q)),
        **{name: _r2(np.array(parts)[:, number], np.array(score_Q))
           for number, name in enumerate(("features_r2", "bias_r2", "error_r2"))},
    }  # fmt: skip


def _pair(number: int, windows: int, length: int) -> tuple[int, int, int]:
    """Window, destination and source of a pair; BOS is neither."""
    n = 1 + number * 7919 % (length - 1)
    return number % windows, n, max(1, n - (number % 8))


def _score(weights: HeadWeights, query_D: torch.Tensor, key_D: torch.Tensor, n: int, i: int) -> float:
    """A real score before the cap, from the states themselves."""
    query_1H, key_1H = unturned(weights, query_D[None])[0], unturned(weights, key_D[None])[1]
    if weights.rotary is not None:
        query_1H, key_1H = (
            weights.rotary.turn(row_1H, np.array([position], np.float64))
            for row_1H, position in ((query_1H, n), (key_1H, i))
        )
    return float((query_1H @ key_1H.T).item() * weights.scale)


def _r2(part_Q: np.ndarray, score_Q: np.ndarray) -> float | None:
    """Squared correlation; None where one of both does not vary."""
    if not (part_Q.std() > 0 and score_Q.std() > 0):
        return None
    return float(np.corrcoef(part_Q, score_Q)[0, 1] ** 2)


def summaries(rows: list[Mapping[str, object]]) -> pa.Table:
    """The table `qk_heads`."""
    return pa.Table.from_pylist(rows, schema=schemas.QK_HEADS)
