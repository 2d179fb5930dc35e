"""What a neurons run is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qkatlas.jobs.inputs import fields
from qkatlas.jobs.inputs.frequencies import Frequencies
from qkatlas.jobs.loop.option import check_options, option
from qkatlas.jobs.positions.spec import Positions
from qkatlas.pipeline.neurons.kinds import AUTO

LONGEST = 256
"""Positions of a window where `--length` does not say, if the model and the text have as many: documents have to
differ, and windows that are longer overlap in a short text."""

LATENTS = 64
"""Neurons whose latents are looked for, unless said otherwise."""


def read_class(file: Path) -> str:
    """The text of one class.

    Raises:
        ValueError: if it cannot be read as UTF-8.
    """
    return fields.read_text(file, "--classes", "two files")


@dataclass(frozen=True, kw_only=True)
class Neurons:
    """The neurons of the first MLP, and what they read through a group of heads of layer 0."""

    group: str = option(
        AUTO, metavar="LIST", help="Heads of layer 0, such as L0H0,L0H2; auto = those that a positions run calls "
        "contextual.",
    )  # fmt: skip
    """Heads of layer 0 by name, apart by commas, or `auto`."""
    text: str | None = option(
        None, metavar="FILE", read=fields.read_text, shown_default="a text of our own",
        help="Text to take medians from, two thirds of it, and to compare with on the last third.",
    )  # fmt: skip
    """The text; None = the calibration text."""
    length: int | None = option(
        None, metavar="T", unit="positions", least=8, most=1_000_000, in_plan=True,
        shown_default=f"{LONGEST}, if model and text have as many",
        help="Positions of a window, the first of which is BOS; a window counts as a document.",
    )  # fmt: skip
    """Positions of a window; None = as many as model and text have, up to 256."""
    windows: int | None = option(
        None, metavar="N", unit="windows", least=2, most=10_000, in_plan=True, shown_default="16, fewer of over 512 "
        "positions", help="Windows of each third of the text.",
    )  # fmt: skip
    """Windows of each third of the text; None = 16, or fewer that are longer."""
    frequencies: Frequencies | None = option(
        None, metavar="CSV", read=Frequencies.read, shown_default="all but BOS alike",
        help="Counts of tokens to weigh them by, 1/2 added to each: columns token,id,count.",
    )  # fmt: skip
    """How often tokens occur; None = all but BOS count alike."""
    classes: tuple[str, str] | None = option(
        None, metavar="A B", read=read_class, pair=True, shown_default="none",
        help="Two files of text: how far a neuron's contributions are those of a Naive Bayes classifier, A against B.",
    )  # fmt: skip
    """Two texts to tell apart; None = none."""
    latents: int = option(
        LATENTS, metavar="N", unit="neurons", least=0, most=1_000_000, in_plan=True,
        help="Neurons whose latents are looked for, those that read most through the group; about 0.3 s each.",
    )  # fmt: skip
    """Neurons whose latents are looked for, those of the largest `contextuality_weights`."""
    resolution: float = option(
        0.3, metavar="R", least=0.01, most=0.99, help="Mean cosine of extended embeddings that holds a latent together."
    )
    """Mean cosine of extended embeddings that holds a latent together."""
    seed: int = fields.seed()
    """Of shuffled text, random groups of heads, and latents."""

    def __post_init__(self) -> None:
        check_options(self)
        if not self.group.strip():
            raise ValueError("--group is empty; name heads of layer 0, such as L0H0,L0H2, or auto")

    def positions(self) -> Positions:
        """The positions run that `auto` goes by."""
        return Positions(
            layers="0", text=self.text, length=self.length, windows=self.windows, frequencies=self.frequencies
        )
