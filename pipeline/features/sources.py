"""What a feature fires on: direct feature attribution over the positions that each head reads, by how they relate.

    DFA_f(n, i, h) = A_h[n, i] v_h[i] . W_enc[h, :, f]

summed over sources i and heads h, times the dictionary's scale at n, plus its constant it is the pre-activation.

A source i of a destination n has some of these relations, which do not exclude each other: it is the BOS (position 0,
which has no other); it stands so far back (`offset`, in ranges that double from 4 on); it holds the same token; the
token before it is the destination's (`induction`), and the text in front of both agrees on so many tokens (`prefix`).

Shapes: T positions, N heads, H head dimension, X = N H, Y relations, Q and R firings, which are pairs of a feature and
a destination.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

BOS, OFFSET, SAME, INDUCTION, PREFIX = "bos", "offset", "same_token", "induction", "prefix"

OFFSETS = (0, 1, 2, 3, 4, 8, 16, 32, 64, 128, 256, 512)
"""Where the ranges of offsets begin."""

PREFIXES = tuple(range(1, 9))
"""Lengths of the text that agrees; the last one is that and more."""

RELATIONS: tuple[tuple[str, int | None], ...] = (
    (BOS, None),
    *((OFFSET, offset) for offset in OFFSETS),
    (SAME, None),
    (INDUCTION, None),
    *((PREFIX, length) for length in PREFIXES),
)
"""All relations, Y of them, each with the number that goes with it."""


def relations(tokens_T: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """How every source relates to every destination of one window.

    Args:
        tokens_T: int64 [T], the first of them BOS.

    Returns:
        bool [Y, T, T], by relation, destination and source; nothing of a source that lies ahead.
    """
    length = len(tokens_T)
    offset_TT = np.arange(length)[:, None] - np.arange(length)
    behind_TT = (offset_TT >= 0) & (np.arange(length) > 0)
    agrees_TT = _agreeing(tokens_T)
    found = np.zeros((len(RELATIONS), length, length), np.bool_)
    ends = (*OFFSETS[1:], length)
    for number, (name, value) in enumerate(RELATIONS):
        if name == BOS:
            found[number, :, 0] = True
        elif name == OFFSET:
            assert value is not None
            found[number] = behind_TT & (offset_TT >= value) & (offset_TT < ends[OFFSETS.index(value)])
        elif name == SAME:
            found[number] = behind_TT & (offset_TT > 0) & (tokens_T[:, None] == tokens_T)
        elif name == INDUCTION:
            found[number] = agrees_TT > 0
        else:
            found[number] = agrees_TT == value if value != PREFIXES[-1] else agrees_TT >= value
    return found


def _agreeing(tokens_T: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How many tokens up to a destination are those up to the one before a source, int64 [T, T]; BOS is none of them.

    A source at the destination or past it has none.
    """
    length = len(tokens_T)
    found_TT = np.zeros((length, length), np.int64)
    for n in range(3, length):
        # Sources i from 2 to n - 1, the tokens before which are those from 1 to n - 2.
        found_TT[n, 2:n] = np.where(tokens_T[1 : n - 1] == tokens_T[n], 1 + found_TT[n - 1, 1 : n - 1], 0)
    return found_TT


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where some firings of features come from.

    Attributes:
        total_Q: float64, the sum of DFA over sources and heads.
        share_QY: float64, share of the positive DFA, summed over heads, at sources of each relation; NaN where a
            firing has none.
        head_QYN: float64, each head's own positive DFA there.
        chance_QY: float64, share of the positions up to the destination that have the relation.
        best_QY: bool, whether the strongest source has it.
        source_Q, head_Q: int64, the strongest source, all heads together, and the head that adds most there.
        source_share_Q: float64, share of the positive DFA at the strongest source.
    """

    total_Q: npt.NDArray[np.float64]
    share_QY: npt.NDArray[np.float64]
    head_QYN: npt.NDArray[np.float64]
    chance_QY: npt.NDArray[np.float64]
    best_QY: npt.NDArray[np.bool_]
    source_Q: npt.NDArray[np.int64]
    head_Q: npt.NDArray[np.int64]
    source_share_Q: npt.NDArray[np.float64]


def direct(pattern_NTT: torch.Tensor, value_TX: torch.Tensor, read_XQ: torch.Tensor, n_Q: torch.Tensor) -> torch.Tensor:
    """Direct feature attribution of some pairs.

    Args:
        pattern_NTT: float64 [N, T, T], attention.
        value_TX: float64 [T, X].
        read_XQ: float64 [X, Q], what each pair's feature reads.
        n_Q: int64 [Q], each pair's destination.

    Returns:
        float64 [Q, N, T], by head and source.
    """
    heads, length, _ = pattern_NTT.shape
    value_NTH = value_TX.reshape(length, heads, -1).transpose(0, 1)
    read_NHQ = read_XQ.reshape(heads, -1, read_XQ.shape[1])
    return (pattern_NTT[:, n_Q] * (value_NTH @ read_NHQ).transpose(1, 2)).transpose(0, 1)


def attribute(
    pattern_NTT: torch.Tensor,
    value_TX: torch.Tensor,
    holds_YTT: torch.Tensor,
    read_XR: torch.Tensor,
    position_R: npt.NDArray[np.int64],
) -> Sources:
    """Where firings in one window come from.

    Args:
        pattern_NTT: float64 [N, T, T], attention.
        value_TX: float64 [T, X].
        holds_YTT: bool [Y, T, T], `relations` of the window's tokens.
        read_XR: float64 [X, R], what the feature of each firing reads.
        position_R: int64 [R], each firing's position.
    """
    n_R = torch.from_numpy(position_R)
    dfa_RNT = direct(pattern_NTT, value_TX, read_XR, n_R)
    positive_RT = dfa_RNT.sum(dim=1).clamp(min=0)
    mass_R = positive_RT.sum(dim=1)
    some_R = torch.where(mass_R > 0, mass_R, torch.nan)
    holds_RYT = holds_YTT[:, n_R].transpose(0, 1)
    holds = holds_RYT.double()
    share_RY = (holds @ positive_RT[:, :, None])[:, :, 0] / some_R[:, None]
    head_RYN = holds @ dfa_RNT.clamp(min=0).transpose(1, 2)
    source_R = positive_RT.argmax(dim=1)
    rows_R = torch.arange(len(n_R))
    return Sources(
        total_Q=dfa_RNT.sum(dim=(1, 2)).numpy(),
        share_QY=share_RY.numpy(),
        head_QYN=head_RYN.numpy(),
        chance_QY=(holds.sum(dim=2) / (n_R[:, None] + 1)).numpy(),
        best_QY=(holds_RYT[rows_R, :, source_R] & (mass_R > 0)[:, None]).numpy(),
        source_Q=source_R.numpy(),
        head_Q=dfa_RNT[rows_R, :, source_R].argmax(dim=1).numpy(),
        source_share_Q=(positive_RT[rows_R, source_R] / some_R).numpy(),
    )
