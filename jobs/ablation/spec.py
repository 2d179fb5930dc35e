"""What an ablation is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from qkatlas.jobs.inputs import fields
from qkatlas.jobs.loop.option import check_options, option
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.passes.kinds import KINDS


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Heads of a model, measured with one component at a time ablated."""

    targets: str | tuple[str, ...] | None = option(
        None, metavar="LIST", help="Heads to measure, and layers of them, such as L1H5,L4.", shown_default="every head"
    )
    """The heads that are measured: names of heads and layers, apart by commas or one by one; None = every head."""
    layers: str | tuple[int, ...] | None = option(
        None, metavar="LIST", help="Layers to ablate, such as 0-3.",
        shown_default="all; with --targets those below the last",
    )  # fmt: skip
    """Layers whose components are ablated, beside the embeddings: ranges or numbers; None = all that matter."""
    kind: str = option("mean", choices=KINDS, help="What replaces an output.")
    """What takes the place of an output: `mean`, `zero` or `resample`."""
    loss: bool = option(True, help="Next-token loss too: all layers and the unembedding for every component.")
    """Whether the next-token loss is taken too, which needs all layers and the unembedding."""
    text: str | None = option(
        None, metavar="FILE", read=fields.read_text, shown_default="the prompts",
        help="Text to take the loss on, in windows of --length tokens after BOS.",
    )  # fmt: skip
    """The text that the loss is taken on; None = the prompts."""
    head: str | None = option(None, help="Head of the closing table.", shown_default="the one with the lowest score")
    """The head of the closing table; it changes no result. None = the one with the lowest score."""
    prompts: int = fields.prompts()
    """Prompts of category words."""
    length: int | None = fields.length()
    """Words in a prompt, and tokens in a window of the text; None = 64, or as many as the model reads after BOS."""
    categories: tuple[tuple[str, ...], ...] | None = fields.categories()
    """The words of each category; None = the project's list."""
    seed: int = fields.seed()
    """Seed of the prompts, of the partners and of the bootstrap intervals."""

    def __post_init__(self) -> None:
        check_options(self)
        if self.head is not None:
            Head.parse(self.head)
        if self.text is not None and not self.loss:
            raise ValueError("--text and --no-loss exclude each other, for the text serves the loss alone; drop one")
