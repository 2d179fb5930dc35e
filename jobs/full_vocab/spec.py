"""What a full-vocab run is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from qkatlas.jobs.inputs import fields
from qkatlas.jobs.loop.option import check_options, option
from qkatlas.pipeline.models.head import Head


@dataclass(frozen=True, kw_only=True)
class FullVocab:
    """One head over the whole vocabulary."""

    head: str = fields.head()
    """The head, by layer and place, both from 0."""
    top_k: int = fields.top_k(64)
    """Keys kept for each query token."""
    states: str = fields.states()
    """How token states are taken."""
    scores: str = fields.scores()
    """Form of the score: `attention` (nats, with biases and scale) or `bilinear` (neither)."""
    offset: str | None = fields.offset()
    """Positions from key to query in models with rotary positions, such as `4` or `mean:1-16`; None = 1 there."""
    shards: int | None = option(
        None, metavar="N", in_plan=True, help="Pieces of work.", shown_default="4096 tokens each"
    )
    """Pieces to cut the vocabulary into; they change no result."""

    def __post_init__(self) -> None:
        check_options(self)
        Head.parse(self.head)
