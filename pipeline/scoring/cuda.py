"""CUDA implementation of the scoring engine: float32 preselection, float64 decisions, all on the device.

Each block of rows is preselected by the fused Triton kernels (`triton_kernels`) where triton is installed, else by a
plain torch product whose scores do fill a bounded block of memory. Either way a row's candidates are all keys whose
score is within the error bound (`bound`) of the k best, and its unsettled keys all those within the bound of
the own key's score; both lists are then decided by canonical float64 dot products. Written in torch operations that
run on any device, so that the CPU can check it.

Shapes: R rows of a block, V keys, H head dimensions, K top-k, C entries of a list.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from qkatlas.pipeline.scoring.bound import KeyScale, RowFrame, below, frame_rows, key_scale, refuse_imprecise
from qkatlas.pipeline.scoring.exact import Float32Array, KeyMoments, row_moments, tree_sum
from qkatlas.pipeline.scoring.preselection import Preselection
from qkatlas.pipeline.scoring.rows import PreparedKeys, RowScores

BLOCK_ROWS = 32768
BLOCK_SCORES = 64 << 20
LIST_ENTRIES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class DeviceKeys:
    """The keys on the device, as they are and as preselection wants them."""

    keys_VH: torch.Tensor
    centred_VH: torch.Tensor
    moments: KeyMoments
    scale: KeyScale

    @classmethod
    def prepare(cls, keys: PreparedKeys, device: object) -> DeviceKeys:
        """Copy the prepared keys to a device."""
        where = torch.device(str(device))
        scale = key_scale(keys.keys_VH, keys.moments.mean_H.numpy())
        return cls(
            keys_VH=torch.from_numpy(keys.keys_VH).to(where),
            centred_VH=torch.from_numpy(scale.centre(keys.keys_VH)).to(where),
            moments=keys.moments.to(where),
            scale=scale,
        )


@dataclass(frozen=True, kw_only=True)
class _Decided:
    """What float64 decided about a block of rows; dot products, not yet scaled.

    Attributes:
        row_ids_R: int64 token id of each row's own key.
        best_ids_RK, best_dots_RK: the best keys, best first; two at least, where there are two.
        own_dot_R: dot product with the own key.
        rank_R: int64, 1 + number of keys above it.
        mean_R, std_R: moments over all keys.
    """

    row_ids_R: torch.Tensor
    best_ids_RK: torch.Tensor
    best_dots_RK: torch.Tensor
    own_dot_R: torch.Tensor
    rank_R: torch.Tensor
    mean_R: torch.Tensor
    std_R: torch.Tensor

    def write(self, out: RowScores, rows: slice, *, k: int, scale: float) -> None:
        """Write `k` best keys and everything else to the block's rows of the result, scaled."""
        out.key_ids_RK[rows] = self.best_ids_RK[:, :k].cpu().numpy()
        out.scores_RK[rows] = (self.best_dots_RK[:, :k] * scale).to(torch.float32).cpu().numpy()
        out.self_score_R[rows] = (self.own_dot_R * scale).to(torch.float32).cpu().numpy()
        out.self_rank_R[rows] = self.rank_R.cpu().numpy()
        out.row_mean_R[rows] = (self.mean_R * scale).cpu().numpy()
        out.row_std_R[rows] = (self.std_R * scale).cpu().numpy()
        if self.best_ids_RK.shape[1] > 1:
            other_R1 = (self.best_ids_RK[:, 0] == self.row_ids_R).to(torch.int64)[:, None]
            other_dot_R = self.best_dots_RK.gather(1, other_R1)[:, 0]
            out.best_other_id_R[rows] = self.best_ids_RK.gather(1, other_R1)[:, 0].cpu().numpy()
            out.best_other_score_R[rows] = (other_dot_R * scale).to(torch.float32).cpu().numpy()


def score(
    queries_RH: Float32Array,
    keys: PreparedKeys,
    row_ids_R: npt.NDArray[np.int64],
    out: RowScores,
    *,
    k: int,
    scale: float,
    threads: int,
    fused: bool | None = None,
) -> None:
    """Fill `out` with the scores of the query rows; arguments as checked by `engine.score_rows`.

    `threads` is ignored: one stream does the work. `fused` chooses the Triton kernels; None means where triton is
    installed and the keys are on a CUDA device.
    """
    del threads
    if fused is None:
        fused = keys.device.type == "cuda" and importlib.util.find_spec("triton") is not None
    device_keys: DeviceKeys = keys.packed(str(keys.device), DeviceKeys.prepare)
    kept = keys.decided(k)
    plain_rows = max(1, BLOCK_SCORES // keys.vocabulary_size)
    block_rows = BLOCK_ROWS if fused else plain_rows
    for start in range(0, len(queries_RH), block_rows):
        rows = slice(start, min(start + block_rows, len(queries_RH)))
        queries = torch.from_numpy(queries_RH[rows]).to(keys.device)
        row_ids = torch.from_numpy(row_ids_R[rows]).to(keys.device)
        own_dot_R = list_dots(queries, device_keys.keys_VH, torch.arange(len(queries), device=keys.device), row_ids)
        mean_R, std_R = row_moments(queries, device_keys.moments)
        frame = frame_rows(queries, own_dot_R, mean_R, device_keys.scale)
        if fused:
            found = _preselect_fused(frame, device_keys.centred_VH, kept, plain_rows)
        else:
            found = preselect(frame, device_keys.centred_VH, kept)
        dots_C = list_dots(queries, device_keys.keys_VH, found.rows_C, found.ids_C)
        _check_bound(found, dots_C, mean_R, frame)
        best_ids_RK, best_dots_RK = best_of_lists(found.rows_C, found.ids_C, dots_C, len(queries), kept)
        decided = _Decided(
            row_ids_R=row_ids,
            best_ids_RK=best_ids_RK,
            best_dots_RK=best_dots_RK,
            own_dot_R=own_dot_R,
            rank_R=self_rank(queries, device_keys.keys_VH, found, own_dot_R),
            mean_R=mean_R,
            std_R=std_R,
        )
        decided.write(out, rows, k=k, scale=scale)


def _preselect_fused(frame: RowFrame, centred_VH: torch.Tensor, kept: int, plain_rows: int) -> Preselection:
    """Preselect with the Triton kernels; rows whose lists overflowed are redone by one torch product."""
    from qkatlas.pipeline.scoring import triton_kernels  # triton is installed where a GPU is

    found, overflowed_R = triton_kernels.preselect(frame, centred_VH, kept)
    for part in torch.split(torch.nonzero(overflowed_R)[:, 0], plain_rows):
        found = found.with_rows_redone(part, preselect(_take(frame, part), centred_VH, kept))
    return found


def preselect(frame: RowFrame, centred_VH: torch.Tensor, kept: int) -> Preselection:
    """Preselect with one torch product; the scores of the whole block are in memory at once."""
    scores_RV = frame.scaled_RH @ centred_VH.T
    least_R = below(torch.topk(scores_RV, kept, dim=1).values[:, -1], frame.margin_R)
    candidates = torch.nonzero(scores_RV >= least_R[:, None])
    over_RV = scores_RV > frame.high_R[:, None]
    unsettled = torch.nonzero((scores_RV >= frame.low_R[:, None]) & ~over_RV)
    return Preselection(
        rows_C=candidates[:, 0],
        ids_C=candidates[:, 1],
        approximate_C=scores_RV[candidates[:, 0], candidates[:, 1]],
        above_R=over_RV.sum(dim=1),
        unsettled_rows_C=unsettled[:, 0],
        unsettled_ids_C=unsettled[:, 1],
    )


def list_dots(
    queries_RH: torch.Tensor, keys_VH: torch.Tensor, rows_C: torch.Tensor, ids_C: torch.Tensor
) -> torch.Tensor:
    """Return the canonical float64 dot products of a list of (row, key id) pairs."""
    dots_C = torch.empty(len(rows_C), dtype=torch.float64, device=queries_RH.device)
    for start in range(0, len(rows_C), LIST_ENTRIES):
        part = slice(start, start + LIST_ENTRIES)
        left = queries_RH[rows_C[part]].to(torch.float64)
        dots_C[part] = tree_sum(left * keys_VH[ids_C[part]].to(torch.float64))
    return dots_C


def self_rank(
    queries_RH: torch.Tensor, keys_VH: torch.Tensor, found: Preselection, own_dot_R: torch.Tensor
) -> torch.Tensor:
    """Return 1 + the number of keys above the own key, deciding the unsettled ones."""
    dots_C = list_dots(queries_RH, keys_VH, found.unsettled_rows_C, found.unsettled_ids_C)
    wins_C = (dots_C > own_dot_R[found.unsettled_rows_C]).to(torch.int64)
    return 1 + found.above_R.index_add(0, found.unsettled_rows_C, wins_C)


def best_of_lists(
    rows_C: torch.Tensor, ids_C: torch.Tensor, dots_C: torch.Tensor, rows: int, kept: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and dot products [R, kept] of each row's best entries, ties to the lower id.

    Three stable sorts, least significant key first, order the list by row, then dot product, then id.
    """
    order_C = torch.argsort(ids_C, stable=True)
    order_C = order_C[torch.argsort(dots_C[order_C], descending=True, stable=True)]
    order_C = order_C[torch.argsort(rows_C[order_C], stable=True)]
    counts_R = torch.bincount(rows_C, minlength=rows)
    assert int(counts_R.min()) >= kept, "preselection lost candidates"
    first_R = torch.cumsum(counts_R, 0) - counts_R
    best_RK = order_C[first_R[:, None] + torch.arange(kept, device=rows_C.device)]
    return ids_C[best_RK], dots_C[best_RK]


def _check_bound(found: Preselection, dots_C: torch.Tensor, mean_R: torch.Tensor, frame: RowFrame) -> None:
    rows_C = found.rows_C
    error_C = (found.approximate_C.to(torch.float64) - (dots_C - mean_R[rows_C]) * frame.unit_R[rows_C]).abs()
    refuse_imprecise(float((error_C / (0.5 * frame.margin_R.to(torch.float64)[rows_C])).max()))


def _take(frame: RowFrame, rows: torch.Tensor) -> RowFrame:
    return RowFrame(
        scaled_RH=frame.scaled_RH[rows],
        unit_R=frame.unit_R[rows],
        low_R=frame.low_R[rows],
        high_R=frame.high_R[rows],
        margin_R=frame.margin_R[rows],
    )
