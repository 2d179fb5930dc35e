"""What a similarity run is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from qkatlas.jobs.inputs import fields
from qkatlas.jobs.inputs.frequencies import Frequencies, listed
from qkatlas.jobs.loop.option import check_options, option
from qkatlas.pipeline.circuit.kinds import ALL_STATES
from qkatlas.pipeline.models.head import Head

_MOST_BINS = 2000


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """The similarity curve of one head."""

    head: str = fields.head()
    """The head, by layer and place, both from 0."""
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
    offset: str | None = fields.offset()
    """Positions from key to query in models with rotary positions, such as `4` or `mean:1-16`; None = 1 there."""
    bins: int = option(200, metavar="N", unit="bins", least=1, most=_MOST_BINS, help="Bins of cosine from -1 to 1.")
    """Bins that cut the cosines from -1 to 1 evenly."""
    frequencies: Frequencies | None = fields.frequencies()
    """Tokens whose pairs are taken, by how often they occur; None = the whole vocabulary."""
    most_frequent: int | None = fields.most_frequent("all")
    """How many of these; None = all."""
    tokens: tuple[int, ...] | None = None
    """For programs that have no frequencies: the tokens whose pairs are taken."""

    def __post_init__(self) -> None:
        check_options(self)
        fields.require_states(self.states, prefix=self.prefix, windows=self.windows, draws=self.draws, text=self.text)
        Head.parse(self.head)
        if self.listed() is not None and self.tokens is not None:
            raise ValueError(f"--frequencies and {len(self.tokens)} tokens exclude each other; leave one out")

    def listed(self) -> Frequencies | None:
        """The most frequent tokens of `--frequencies`; None = all tokens.

        Raises:
            ValueError: if there are no frequencies to take them from.
        """
        return listed(self.frequencies, self.most_frequent)
