"""Fused Triton kernels of the CUDA scoring engine: tiles of scores never leave the chip.

Two sweeps over the keys with the same float32 product (`input_precision="ieee"`, so the bound of `bound`
holds). The first keeps each group of keys' largest score per row, counts scores surely above the own key's and lists
those too close to tell. The k-th largest of the group maxima is a score that at least k keys reach, hence

    threshold = (k-th largest group maximum) - 2E

is below the score, in either sweep, of every key that can be among the true top k; the second sweep lists all keys
that reach it. With many more groups than k the threshold is tight: about -n ln(1 - k/n) survivors for n groups.
Lists have a fixed capacity; rows that overflow it (ties, extreme outliers) are reported, and redone by plain torch.

Shapes: R rows, V keys, H head dimensions, G groups, B list capacity.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from qkatlas.pipeline.scoring.bound import RowFrame, below
from qkatlas.pipeline.scoring.preselection import Preselection

TILE_ROWS = 128
TILE_KEYS = 64
STEP = 16
WARPS = 8
STAGES = 3
TILES_PER_PROGRAM = 32
UNSETTLED_CAPACITY = 128


@triton.jit  # type: ignore[untyped-decorator]
def _append(hit, rows, keys, scores, counts, list_ids, list_scores, capacity, KEEP_SCORES: tl.constexpr):  # type: ignore[no-untyped-def]
    slot = tl.atomic_add(counts + rows, tl.full(hit.shape, 1, tl.int32), mask=hit)
    place = rows.to(tl.int64) * capacity + slot
    fits = hit & (slot < capacity)
    tl.store(list_ids + place, keys, mask=fits)
    if KEEP_SCORES:
        tl.store(list_scores + place, scores, mask=fits)


@triton.jit  # type: ignore[untyped-decorator]
def _sweep(  # type: ignore[no-untyped-def]
    queries,
    keys,
    low,
    high,
    threshold,
    maxima,
    above,
    counts,
    list_ids,
    list_scores,
    row_count,
    key_count,
    width,
    group_count,
    capacity,
    tiles_per_program,
    FIRST: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    STEP: tl.constexpr,
    GROUP: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row_valid = row < row_count
    if FIRST:
        row_low = tl.load(low + row, mask=row_valid, other=float("inf"))
        row_high = tl.load(high + row, mask=row_valid, other=float("inf"))
    else:
        row_threshold = tl.load(threshold + row, mask=row_valid, other=float("inf"))
    row_above = tl.zeros([ROWS], tl.int32)
    first_tile = tl.program_id(1) * tiles_per_program
    last_tile = tl.minimum(first_tile + tiles_per_program, tl.cdiv(key_count, KEYS))
    for tile in range(first_tile, last_tile):
        key = tile * KEYS + tl.arange(0, KEYS)
        key_valid = key < key_count
        score = tl.zeros([ROWS, KEYS], tl.float32)
        # Short steps along the head dimension: one product of the full width would spill the registers.
        for step in range(tl.cdiv(width, STEP)):
            dim = step * STEP + tl.arange(0, STEP)
            query = tl.load(
                queries + row.to(tl.int64)[:, None] * width + dim[None, :],
                mask=row_valid[:, None] & (dim[None, :] < width),
                other=0.0,
            )
            block = tl.load(
                keys + key.to(tl.int64)[None, :] * width + dim[:, None],
                mask=key_valid[None, :] & (dim[:, None] < width),
                other=0.0,
            )
            score = tl.dot(query, block, score, input_precision="ieee")
        valid = row_valid[:, None] & key_valid[None, :]
        rows_2d = tl.broadcast_to(row[:, None], (ROWS, KEYS))
        keys_2d = tl.broadcast_to(key[None, :], (ROWS, KEYS))
        if FIRST:
            group = tile * (KEYS // GROUP) + tl.arange(0, KEYS // GROUP)
            largest = tl.max(tl.reshape(tl.where(valid, score, float("-inf")), (ROWS, KEYS // GROUP, GROUP)), axis=2)
            tl.store(
                maxima + row.to(tl.int64)[:, None] * group_count + group[None, :],
                largest,
                mask=row_valid[:, None] & (group[None, :] < group_count),
            )
            over = (score > row_high[:, None]) & valid
            row_above += tl.sum(over.to(tl.int32), axis=1)
            hit = (score >= row_low[:, None]) & (score <= row_high[:, None]) & valid
        else:
            hit = (score >= row_threshold[:, None]) & valid
        if tl.max(tl.max(hit.to(tl.int32), axis=1), axis=0) > 0:
            _append(hit, rows_2d, keys_2d, score, counts, list_ids, list_scores, capacity, not FIRST)
    if FIRST:
        tl.atomic_add(above + row, row_above, mask=row_valid)


def preselect(frame: RowFrame, centred_VH: torch.Tensor, kept: int) -> tuple[Preselection, torch.Tensor]:
    """Preselect a block of rows.

    Args:
        frame: the rows, scaled and bounded.
        centred_VH: float32 centred and scaled keys on the same device.
        kept: how many best keys a row keeps.

    Returns:
        The preselection, and bool [R]: rows whose lists overflowed, of which it holds nothing reliable.
    """
    queries_RH = frame.scaled_RH.contiguous()
    device = queries_RH.device
    rows, width = queries_RH.shape
    count = len(centred_VH)
    # Four times as many groups as kept keys keep the threshold tight; a group of one key is always enough.
    group = TILE_KEYS
    while group > 1 and -(-count // group) < 4 * kept:
        group //= 2
    groups = -(-count // group)
    capacity = min(count, 2 * kept + 128)
    tiles = -(-count // TILE_KEYS)
    grid = (-(-rows // TILE_ROWS), -(-tiles // TILES_PER_PROGRAM))
    maxima_RG = torch.empty(rows, groups, device=device)
    above_R = torch.zeros(rows, dtype=torch.int32, device=device)
    unsettled_R, survivors_R = (torch.zeros(rows, dtype=torch.int32, device=device) for _ in range(2))
    unsettled_RB = torch.empty(rows, UNSETTLED_CAPACITY, dtype=torch.int32, device=device)
    ids_RB = torch.empty(rows, capacity, dtype=torch.int32, device=device)
    scores_RB = torch.empty(rows, capacity, device=device)

    def sweep(first: bool, threshold_R: torch.Tensor, counts_R: torch.Tensor, list_RB: torch.Tensor) -> None:
        _sweep[grid](
            queries=queries_RH,
            keys=centred_VH,
            low=frame.low_R,
            high=frame.high_R,
            threshold=threshold_R,
            maxima=maxima_RG,
            above=above_R,
            counts=counts_R,
            list_ids=list_RB,
            list_scores=scores_RB,
            row_count=rows,
            key_count=count,
            width=width,
            group_count=groups,
            capacity=list_RB.shape[1],
            tiles_per_program=TILES_PER_PROGRAM,
            FIRST=first,
            ROWS=TILE_ROWS,
            KEYS=TILE_KEYS,
            STEP=STEP,
            GROUP=group,
            num_warps=WARPS,
            num_stages=STAGES,
        )

    sweep(first=True, threshold_R=frame.margin_R, counts_R=unsettled_R, list_RB=unsettled_RB)
    threshold_R = below(torch.topk(maxima_RG, kept, dim=1).values[:, -1], frame.margin_R)
    sweep(first=False, threshold_R=threshold_R, counts_R=survivors_R, list_RB=ids_RB)
    overflowed_R = (survivors_R > capacity) | (unsettled_R > UNSETTLED_CAPACITY)
    candidates = _filled(survivors_R, capacity, overflowed_R)
    unsettled = _filled(unsettled_R, UNSETTLED_CAPACITY, overflowed_R)
    return (
        Preselection(
            rows_C=candidates[0],
            ids_C=ids_RB[candidates].to(torch.int64),
            approximate_C=scores_RB[candidates],
            above_R=above_R.to(torch.int64),
            unsettled_rows_C=unsettled[0],
            unsettled_ids_C=unsettled_RB[unsettled].to(torch.int64),
        ),
        overflowed_R,
    )


def _filled(counts_R: torch.Tensor, capacity: int, overflowed_R: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (row, slot) of every filled slot of the rows that did not overflow."""
    slots_B = torch.arange(capacity, device=counts_R.device)
    filled = (slots_B[None, :] < counts_R[:, None]) & ~overflowed_R[:, None]
    rows_C, slots_C = torch.nonzero(filled, as_tuple=True)
    return rows_C, slots_C
