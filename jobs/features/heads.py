"""What a features run computes on workers for one head of a dictionary of z: its features, and whether they are alike.

Shapes: F features, N heads, S features that are compared, E numbers of a view, X width of z, D model, Y relations.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from qkatlas.cluster.executor import Grant
from qkatlas.jobs.loop.step import Produced
from qkatlas.outputs.runs.part import Part
from qkatlas.outputs.runs.reader import list_matrix, read_parts
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.shard import Shard
from qkatlas.outputs.schemas import features as schemas
from qkatlas.pipeline.features.encoder import Encoder
from qkatlas.pipeline.features.similarity import FEATURES, NEEDED, VIEWS, likeness, null_features, unit_rows
from qkatlas.pipeline.features.sources import RELATIONS


@dataclass(frozen=True, kw_only=True)
class LayerFeatures:
    """What the heads of a layer share.

    Attributes:
        share_FN, fve_FN, active_FN, r2_FN: float32 [F, N], what the features' rows say of heads; NaN where nothing.
        density_F, entropy_F: float64 [F].
        views: unit rows of each view, float32 [F, E].
        seed: of the random features.
        made_from: hash of what was read.
    """

    share_FN: np.ndarray
    fve_FN: np.ndarray
    active_FN: np.ndarray
    r2_FN: np.ndarray
    density_F: np.ndarray
    entropy_F: np.ndarray
    views: Mapping[str, np.ndarray]
    seed: int
    made_from: str

    def identity(self) -> str:
        """Hash of what all of it follows from."""
        return hashlib.sha256(f"{self.made_from} {self.seed}".encode()).hexdigest()

    @classmethod
    def read(cls, run: Run, parts: Sequence[Part], encoder: Encoder, logit_FD: np.ndarray, seed: int) -> LayerFeatures:
        """Read what the shards of features left.

        Args:
            run: the run.
            parts: of the shards of the dictionary.
            encoder: the dictionary.
            logit_FD: float32 [F, D], `logit_directions`.
            seed: of the random features.
        """
        rows = read_parts(run, parts, "features").sort_by("feature")
        dfa = read_parts(run, parts, "dfa")
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part.sha256.encode())
        encoders_FX = encoder.tensors["W_enc"].T
        return cls(
            share_FN=_lists(rows, "head_shares"), fve_FN=_lists(rows, "head_fve"),
            active_FN=_lists(rows, "head_fve_active"), r2_FN=_lists(rows, "head_r2"),
            density_F=rows["density"].to_numpy(), entropy_F=rows["head_entropy"].to_numpy(),
            views={
                "logit": logit_FD,
                "source": unit_rows(_relations(dfa, rows.num_rows)),
                "encoder": unit_rows(encoders_FX),
            },
            seed=seed, made_from=digest.hexdigest(),
        )  # fmt: skip


def _lists(rows: pa.Table, column: str) -> np.ndarray:
    """Lists as rows of a matrix, float32; NaN where there is none."""
    found = rows[column].combine_chunks()
    width = found.type.list_size
    values_FN = np.full((len(found), width), np.nan, np.float32)
    there_F = found.is_valid().to_numpy(zero_copy_only=False)
    if there_F.any():
        values_FN[there_F] = list_matrix(rows.filter(found.is_valid()), column)
    return values_FN


def _relations(dfa: pa.Table, features: int) -> np.ndarray:
    """Shares of source relations less chance, float64 [F, Y]; NaN of features that do not fire."""
    number = {relation: place for place, relation in enumerate(RELATIONS)}
    found_FY = np.full((features, len(RELATIONS)), np.nan)
    feature_R = dfa["feature"].to_numpy()
    pairs = zip(dfa["source"].to_pylist(), dfa["value"].to_pylist(), strict=True)
    relation_R = np.array([number[pair] for pair in pairs], np.int64)
    found_FY[feature_R] = 0.0
    found_FY[feature_R, relation_R] = dfa["share"].to_numpy() - dfa["chance"].to_numpy()
    return found_FY


def judge(grant: Grant, shard: Shard, layer: LayerFeatures, per_head: int) -> Produced:
    """Describe one head by its features; runs on a worker, on CPUs.

    Args:
        grant: what the worker may use.
        shard: the head.
        layer: what the heads of its layer share.
        per_head: features of it in `attribution`.
    """
    place, head = shard.bounds["layer"], shard.bounds["head"]
    share_F = layer.share_FN[:, head].astype(np.float64)
    share_F = np.where(np.isnan(share_F), -1.0, share_F)  # a decoder that is zero is no head's
    order_F = np.lexsort((np.arange(len(share_F)), -share_F))
    order_F = order_F[share_F[order_F] >= 0][:per_head]
    chosen_S = order_F[:FEATURES]
    row: dict[str, Any] = {
        "layer": place, "head": head, "top_features": chosen_S.tolist(),
        "top10_share": _mean(share_F[chosen_S]), "top10_entropy": _mean(layer.entropy_F[chosen_S]),
        "top10_density": _mean(layer.density_F[chosen_S]), "share_mean": _mean(share_F[share_F >= 0]),
    }  # fmt: skip
    null_NS = null_features(chosen_S, layer.density_F, seed=layer.seed, layer=place, head=head)
    passed = 0
    for view in VIEWS:
        found = likeness(layer.views[view], chosen_S, null_NS)
        passed += found.passes
        row |= {
            f"{view}_similarity": _known(found.value), f"{view}_null_mean": _known(found.null_mean),
            f"{view}_null_high": _known(found.null_high), f"{view}_z": _known(found.z),
        }  # fmt: skip
    row |= {"views_passed": passed, "monosemantic_candidate": passed >= NEEDED}
    return Produced({"attribution": _attribution(layer, place, head, order_F)}, {"row": row}, {"device": "cpu"})


def _attribution(layer: LayerFeatures, place: int, head: int, order_R: np.ndarray) -> pa.Table:
    count = len(order_R)
    numbers = [
        values_FN[order_R, head].astype(np.float64)
        for values_FN in (layer.share_FN, layer.fve_FN, layer.active_FN, layer.r2_FN)
    ]
    columns = [
        *(pa.array(np.full(count, number, np.int32)) for number in (place, head)),
        pa.array(np.arange(1, count + 1, dtype=np.int32)),
        pa.array(order_R.astype(np.int32)),
        *(pa.array(values_R, mask=np.isnan(values_R)) for values_R in numbers),
    ]
    return pa.Table.from_arrays(columns, schema=schemas.ATTRIBUTION)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
