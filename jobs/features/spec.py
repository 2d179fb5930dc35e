"""What a features run is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from qkatlas.jobs.inputs import fields
from qkatlas.jobs.loop.option import check_options, option
from qkatlas.pipeline.features.kinds import AUTO, CONVENTIONS

LONGEST = 128
"""Positions of a window where `--length` does not say, if model and text have as many."""

WINDOWS = 64
"""Windows of text where `--windows` does not say, if the text has as many."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """The features of one dictionary, or of several of different layers, and of the heads that they are of."""

    directory: str | None = option(
        None, argument=True, metavar="SAE_DIR", in_plan=True, shown_default="those of a planted model",
        help="A SAELens directory (cfg.json, sae_weights.safetensors), or one that holds several.",
    )  # fmt: skip
    """A SAELens directory, or one of several; None = the dictionaries of a planted model."""
    layers: str | None = fields.layers()
    """Numbers and ranges of layers whose dictionaries are taken, from 0; None = all there are."""
    convention: str = option(
        AUTO, choices=CONVENTIONS,
        help="Activations as TransformerLens folds them, or as the model has them; auto = which is reconstructed "
        "better.",
    )  # fmt: skip
    """Which activations the dictionaries were trained on; `auto` measures it."""
    text: str | None = option(
        None, metavar="FILE", read=fields.read_text, shown_default="a text of our own",
        help="Text that features are measured on.",
    )  # fmt: skip
    """The text; None = the calibration text."""
    length: int | None = option(
        None, metavar="T", unit="positions", least=8, most=100_000, in_plan=True,
        shown_default=f"{LONGEST}, if model and text have as many",
        help="Positions of a window, the first of which is BOS.",
    )  # fmt: skip
    """Positions of a window; None = 128, or as many as model and text have."""
    windows: int | None = option(
        None, metavar="N", unit="windows", least=1, most=100_000, in_plan=True,
        shown_default=f"{WINDOWS}, or as many as the text has", help="Windows of text, evenly spread over it.",
    )  # fmt: skip
    """Windows of text; None = 64, or as many as the text has."""
    top_k: int = option(
        10, metavar="K", unit="tokens", least=1, remedy="keep at least one token a feature", in_plan=True,
        help="Tokens kept of either end of a feature's logits, and keys kept of each row of qk.",
    )  # fmt: skip
    """Tokens kept of either end of a feature's logits, and keys of each row of `qk`."""
    firings: int = option(
        16, metavar="N", unit="firings", least=1, most=1000, in_plan=True,
        help="Strongest firings of each feature whose sources are found.",
    )  # fmt: skip
    """Strongest firings of each feature whose sources are found."""
    per_head: int = option(
        1000, metavar="N", unit="features", least=10, in_plan=True,
        help="Features of each head in the table attribution, those of the largest shares.",
    )  # fmt: skip
    """Features of each head in the table `attribution`."""
    states: str = fields.states()
    """How token states are taken, which features of a residual stream meet."""
    offset: str | None = fields.offset()
    """Positions from key to query of `qk`, where a model turns both; None = 1 there."""
    seed: int = fields.seed()
    """Seed of the random features that a head's are compared with."""

    def __post_init__(self) -> None:
        check_options(self)
        if self.directory is not None and not self.directory.strip():
            raise ValueError("SAE_DIR is empty; give a SAELens directory, with cfg.json and sae_weights.safetensors")
