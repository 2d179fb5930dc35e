"""What `submit relations` is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from qkatlas.jobs.inputs import fields
from qkatlas.jobs.loop.option import check_options, option
from qkatlas.jobs.loop.request import model_option
from qkatlas.pipeline.circuit.kinds import ALL_STATES, AUTO
from qkatlas.pipeline.text.relations import read_relations


@dataclass(frozen=True, kw_only=True)
class Relations:
    """Which heads write the target of a relation where they attend to its source."""

    model: str = model_option()
    """The model."""
    pairs: dict[str, tuple[tuple[str, str], ...]] | None = option(
        None, metavar="CSV", read=read_relations, help="Pairs relation,source,target.", shown_default="the project's"
    )
    """Pairs of words by relation."""
    layers: str | None = fields.layers()
    """Numbers and ranges of layers, from 0."""
    k: int = option(10, metavar="N", unit="tokens", least=1, most=10_000, help="A target counts among the N first.")
    """How far from either end of a row a target counts."""
    as_published: bool = option(
        False, flag="--as-published",
        help="As in MAPS (arXiv 2412.11965): MLP_0 of the embedding, no norms, no biases, the unembedding as it is.",
    )  # fmt: skip
    """Whether the published form is taken."""
    first_mlp: bool = option(True, help="With --as-published: apply MLP_0 to what layers from 1 on read.")
    """Whether the published form applies the first MLP."""
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
    shuffles: int = option(
        1999, metavar="N", unit="shuffles", least=99, most=100_000, help="Shuffles of a relation's targets."
    )
    """Shuffles behind the p-values."""
    top: int = option(3, metavar="N", unit="heads", least=1, most=100_000, help="Heads to print for each relation.")
    """Heads to print."""
    seed: int = fields.seed()
    """Seed of the shuffles."""
    as_json: bool = option(False, flag="--json", help="Print JSON, of all heads and relations.")
    """Print JSON."""
    as_csv: bool = option(False, flag="--csv", help="Print CSV, of all heads and relations.")
    """Print CSV."""

    def __post_init__(self) -> None:
        check_options(self)
        if self.as_json and self.as_csv:
            raise ValueError("--json and --csv exclude each other; leave one out")
        if self.as_published and self.states not in (AUTO, "mlp"):  # it has states of its own
            raise ValueError(f"--states {self.states} has no meaning with --as-published; leave one of them out")
        if not self.first_mlp and not self.as_published:
            raise ValueError("--no-first-mlp has no meaning without --as-published; add it, or leave this out")
        fields.require_states(self.states, prefix=self.prefix, windows=self.windows, draws=self.draws, text=self.text)
