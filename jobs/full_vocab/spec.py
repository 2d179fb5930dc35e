"""What a full-vocab run is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from qkatlas.jobs.inputs import fields
from qkatlas.jobs.inputs.circuit import require_circuit
from qkatlas.jobs.loop.option import check_options, option
from qkatlas.pipeline.circuit.kinds import ALL_STATES, QK
from qkatlas.pipeline.models.head import Head


@dataclass(frozen=True, kw_only=True)
class FullVocab:
    """One head over the whole vocabulary."""

    head: str = fields.head()
    """The head, by layer and place, both from 0."""
    top_k: int = fields.top_k(64)
    """Keys kept for each query token."""
    states: str = fields.states(ALL_STATES)
    """How token states are taken."""
    prefix: str | None = fields.prefix()
    """Tokens in front, for the states `prefix` and `context`."""
    windows: int | None = fields.windows()
    """Windows of text to choose from, for the states `context`; None = 512."""
    draws: int | None = fields.draws()
    """Windows that a token is read behind, for the states `context`; None = 4."""
    text: str | None = fields.pool()
    """The text that the windows are from, for the states `context`; None = the calibration text."""
    scores: str = fields.scores()
    """Form of the score: `attention` (nats, with biases and scale) or `bilinear` (neither)."""
    circuit: str = fields.circuit(QK)
    """Whom the head attends to (`qk`), what it then writes (`ov`), or both."""
    unembed: str | None = fields.unembed()
    """How what it writes is read, `folded` or `raw`; None = folded."""
    offset: str | None = fields.offset()
    """Positions from key to query in models with rotary positions, such as `4` or `mean:1-16`; None = 1 there."""
    exclude_hubs: float | None = fields.exclude_hubs()
    """Share of rows from which a key that is their best is left out of the lists of best keys; None = none is."""
    shards: int | None = option(
        None, metavar="N", in_plan=True, help="Pieces of work.", shown_default="4096 tokens each"
    )
    """Pieces to cut the vocabulary into; they change no result."""

    def __post_init__(self) -> None:
        check_options(self)
        Head.parse(self.head)
        require_circuit(self)
        fields.require_states(self.states, prefix=self.prefix, windows=self.windows, draws=self.draws, text=self.text)
