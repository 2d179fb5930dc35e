"""What a reproduction is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from qkatlas.jobs.inputs import fields
from qkatlas.jobs.inputs.frequencies import Frequencies
from qkatlas.jobs.loop.option import check_options, option


@dataclass(frozen=True, kw_only=True)
class Reproduce:
    """A comparison with the published figures."""

    frequencies: Frequencies | None = option(
        None, metavar="CSV", read=Frequencies.read, help="Frequent tokens of the model, columns token,id,count.",
        shown_default="GPT-2's, for models with its vocabulary",
    )  # fmt: skip
    """The model's own frequent tokens; None = GPT-2's, where the model has its vocabulary."""
    features: str | None = option(
        None, metavar="SAE_DIR", shown_default="none: those figures are not compared",
        help="A directory of SAELens dictionaries of the model's z, one a layer.",
    )  # fmt: skip
    """Dictionaries of features of the model's heads; None = figures about them are not compared."""
    seed: int = fields.seed()
    """Seed of the prompts, of random heads and of Leiden."""

    def __post_init__(self) -> None:
        check_options(self)
