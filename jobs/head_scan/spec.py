"""What a head scan is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from qkatlas.jobs.inputs import fields
from qkatlas.jobs.inputs.circuit import require_circuit
from qkatlas.jobs.loop.option import check_options
from qkatlas.pipeline.circuit.kinds import ALL_STATES, BOTH


@dataclass(frozen=True, kw_only=True)
class HeadScan:
    """Every head of a model, or some of them, over the whole vocabulary."""

    layers: str | None = fields.layers()
    """Numbers and ranges of layers, from 0; None = every layer."""
    heads: str | tuple[str, ...] | None = fields.heads()
    """Numbers and ranges for each of these layers, or names of heads; None = every head."""
    top_k: int = fields.top_k(10)
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
    circuit: str = fields.circuit(BOTH)
    """Whom the head attends to (`qk`), what it then writes (`ov`), or both."""
    unembed: str | None = fields.unembed()
    """How what it writes is read, `folded` or `raw`; None = folded."""
    offset: str | None = fields.offset()
    """Positions from key to query in models with rotary positions, such as `4` or `mean:1-16`; None = 1 there."""
    exclude_hubs: float | None = fields.exclude_hubs()
    """Share of rows from which a key that is their best is left out of the lists of best keys; None = none is."""
    prompts: int = fields.prompts()
    """Prompts of category words."""
    length: int | None = fields.length()
    """Words in a prompt; None = 64, or as many as the model reads after BOS."""
    categories: tuple[tuple[str, ...], ...] | None = fields.categories()
    """The words of each category; None = the project's list."""
    seed: int = fields.seed()
    """Seed of the prompts, of the bootstrap intervals and of the spectrum's null."""

    def __post_init__(self) -> None:
        check_options(self)
        require_circuit(self)
        fields.require_states(self.states, prefix=self.prefix, windows=self.windows, draws=self.draws, text=self.text)
        if self.heads == ():
            raise ValueError("--heads names no head; name at least one, for example L1H5")
