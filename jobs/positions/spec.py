"""What a positions run is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from qkatlas.jobs.inputs import fields
from qkatlas.jobs.inputs.frequencies import Frequencies
from qkatlas.jobs.loop.option import check_options, option
from qkatlas.pipeline.positions.kinds import PREFIX, SOURCES, TEXT

MEAN = "mean"
"""`--destination`: no token's query, but the mean of all."""

LONGEST, LONGEST_ROTARY = 1024, 256
"""Positions that are taken where `--length` does not say, if the model and the text have as many."""

WINDOWS, LEAST_WINDOWS = 16, 4
WINDOW_POSITIONS = 8192
"""Windows of each third of the text where `--windows` does not say: as many as have so many positions together, from 4
to 16."""


@dataclass(frozen=True, kw_only=True)
class Positions:
    """The positional kernels of every head of a model, or of some of them."""

    layers: str | None = fields.layers()
    """Numbers and ranges of layers, from 0; None = every layer."""
    heads: str | tuple[str, ...] | None = fields.heads()
    """Numbers and ranges for each of these layers, or names of heads; None = every head."""
    source: str = option(
        TEXT, choices=SOURCES, in_plan=True,
        help="Where mean queries and keys come from, but for layer 0 of learned positions, whose weights give them "
        "exactly: windows of text, or every token behind a prefix, in models with rotary positions.",
    )  # fmt: skip
    """Where means come from: windows of `text`, or every token behind a `prefix`."""
    prefix: str | None = option(
        None, metavar="TEXT", in_plan=True, shown_default="BOS",
        help="With --source prefix: the tokens in front, a text or ids such as #0,#28.",
    )  # fmt: skip
    """The tokens in front, for the source `prefix`; None = BOS."""
    text: str | None = option(
        None, metavar="FILE", read=fields.read_text, shown_default="a text of our own",
        help="Text to take means from and to compare with real attention, a third of it each, and a third for the "
        "second half of the means.",
    )  # fmt: skip
    """The text; None = the calibration text."""
    length: int | None = option(
        None, metavar="T", unit="positions", least=8, most=1_000_000, in_plan=True,
        shown_default=f"{LONGEST}, or {LONGEST_ROTARY} with rotary positions, if model and text have as many",
        help="Positions of a window, the first of which is BOS.",
    )  # fmt: skip
    """Positions of a window; None = as many as model and text have, up to 1024, or 256 with rotary positions."""
    windows: int | None = option(
        None, metavar="N", unit="windows", least=2, most=10_000, in_plan=True,
        shown_default=f"{WINDOWS}, fewer of over {WINDOW_POSITIONS // WINDOWS} positions",
        help="Windows of each third of the text.",
    )  # fmt: skip
    """Windows of each third of the text; None = 16, or fewer that are longer."""
    destination: str = option(
        MEAN, metavar="TOKEN", help="The token whose query stands for all, or mean: the mean query of all tokens."
    )
    """The token whose query stands for all, or `mean`."""
    frequencies: Frequencies | None = option(
        None, metavar="CSV", read=Frequencies.read, shown_default="all but BOS alike",
        help="Counts of tokens to weigh them by where means come from weights or a prefix: columns token,id,count.",
    )  # fmt: skip
    """How often tokens occur; None = all but BOS count alike."""

    def __post_init__(self) -> None:
        check_options(self)
        if self.heads == ():
            raise ValueError("--heads names no head; name at least one, for example L1H5")
        if self.prefix is not None and self.source != PREFIX:
            raise ValueError(
                f"--prefix {self.prefix} has no meaning with --source {self.source}; choose --source {PREFIX}, or "
                "leave it out"
            )
        if not self.destination.strip():
            raise ValueError("--destination is empty; name a token, its id as #17, or mean")


def windows_of(windows: int | None, length: int) -> int:
    """Windows of each third: as asked for, or as many as go with their length."""
    return windows or max(LEAST_WINDOWS, min(WINDOWS, WINDOW_POSITIONS // length))
