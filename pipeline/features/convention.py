"""Which activations a dictionary was trained on, decided by what it gives back of them.

Shapes: P positions, X width of what is encoded.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from qkatlas.pipeline.features.encoder import Encoder
from qkatlas.pipeline.features.kinds import AUTO, FOLDED, RAW, RESIDUAL
from qkatlas.pipeline.models.blocks import on_one_thread

CALIBRATION_POSITIONS = 2048
"""Positions that are reconstructed, evenly spread over the text."""

_ALIKE = 1e-5
"""Activations whose difference is a smaller share of them are the same but for rounding."""


@dataclass(frozen=True, kw_only=True)
class Convention:
    """By which convention activations are taken, and what was measured of both.

    Attributes:
        kind: `folded` or `raw`.
        fvu_folded, fvu_raw: share of the variance that the dictionary leaves unexplained.
        differ: whether both are different activations of this model.
        positions: that were reconstructed.
    """

    kind: str
    fvu_folded: float
    fvu_raw: float
    differ: bool
    positions: int

    @property
    def fvu(self) -> float:
        """That of the convention by which activations are taken."""
        return self.fvu_folded if self.kind == FOLDED else self.fvu_raw


def folded(reads: str, raw_PX: torch.Tensor, constant_X: torch.Tensor | None) -> torch.Tensor:
    """Activations of a model that is loaded as TransformerLens does by default.

    Args:
        reads: `z`, whose constant is taken off, or `residual`, which is centred over X.
        raw_PX: float64 [P, X], of the model as it is.
        constant_X: float64 [X], `LayerHeads.constant`; None of a residual stream that a RMSNorm reads, which stays.
    """
    if reads == RESIDUAL:
        return raw_PX if constant_X is None else raw_PX - raw_PX.mean(dim=1, keepdim=True)
    assert constant_X is not None
    return raw_PX - constant_X


def measure_convention(
    asked: str, encoder: Encoder, raw_PX: torch.Tensor, constant_X: torch.Tensor | None, *, threads: int
) -> Convention:
    """Encode activations both ways, and take the one that is asked for, or of which less is left unexplained.

    Args:
        asked: one of CONVENTIONS.
        encoder: the dictionary.
        raw_PX: float64 [P, X], activations of the model as it is, at least two.
        constant_X: as in `folded`.
        threads: threads to use; no number depends on it.
    """
    step = -(-len(raw_PX) // CALIBRATION_POSITIONS)
    some_PX = raw_PX[::step]
    other_PX = on_one_thread(lambda: folded(encoder.config.reads, some_PX, constant_X))
    differ = bool((some_PX - other_PX).norm() > _ALIKE * some_PX.norm())
    fvu_raw = unexplained(encoder, some_PX, threads=threads)
    fvu_folded = unexplained(encoder, other_PX, threads=threads) if differ else fvu_raw
    kind = asked if asked != AUTO else FOLDED if fvu_folded < fvu_raw else RAW
    return Convention(
        kind=kind, fvu_folded=fvu_folded, fvu_raw=fvu_raw, differ=differ, positions=len(some_PX)
    )  # fmt: skip


def unexplained(encoder: Encoder, x_PX: torch.Tensor, *, threads: int) -> float:
    """Share of the variance of activations that a dictionary does not give back: |x - x'|^2 / |x - mean x|^2.

    Args:
        encoder: the dictionary.
        x_PX: float64 [P, X].
        threads: threads to use; the result does not depend on it.
    """
    found_PX = encoder.reconstruct(x_PX, threads=threads)
    return on_one_thread(lambda: float((x_PX - found_PX).square().sum() / (x_PX - x_PX.mean(dim=0)).square().sum()))
