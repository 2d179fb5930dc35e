"""Components of a model that can be ablated: embeddings, and each layer's attention, MLP, residual and heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qkatlas.pipeline.models.architecture import Architecture
from qkatlas.pipeline.models.head import Head

NONE, EMBED, POS_EMBED, ATTN, MLP, MLP_RESIDUAL, HEAD = (
    "none",
    "embed",
    "pos_embed",
    "attn",
    "mlp",
    "mlp_residual",
    "head",
)
"""Kinds of components; `none` is the model as it is."""


@dataclass(frozen=True)
class Component:
    """One component.

    Attributes:
        kind: what it is.
        layer: its layer; None for the embeddings and `none`.
        head: its place among the layer's heads; None for all but single heads.
    """

    kind: str
    layer: int | None = None
    head: int | None = None

    @property
    def name(self) -> str:
        """Its name: `embed`, `pos_embed`, `attn_0`, `mlp_0`, `mlp_0_residual`, `L0H3` or `none`."""
        if self.kind == HEAD:
            assert self.layer is not None
            assert self.head is not None
            return str(Head(self.layer, self.head))
        if self.kind == MLP_RESIDUAL:
            return f"mlp_{self.layer}_residual"
        return self.kind if self.layer is None else f"{self.kind}_{self.layer}"

    @property
    def first_layer_after(self) -> int:
        """The first layer whose attention reads what the component writes; heads of lower layers it cannot reach."""
        return 0 if self.layer is None else self.layer + 1


CLEAN = Component(NONE)
"""The baseline."""


def embeddings(architecture: Architecture) -> list[Component]:
    """The embeddings: of tokens, and of positions where the model has them."""
    return [Component(EMBED), *([Component(POS_EMBED)] if architecture.rotary is None else [])]


def of_layer(architecture: Architecture, layer: int) -> list[Component]:
    """The components of one layer: attention, MLP, the residual around the MLP, and each head.

    Where attention and MLP read the same stream there is no residual around the MLP alone.
    """
    kinds = (ATTN, MLP) if architecture.parallel else (ATTN, MLP, MLP_RESIDUAL)
    whole = [Component(kind, layer) for kind in kinds]
    return whole + [Component(HEAD, layer, head) for head in range(architecture.n_heads)]


def reached(component: Component, heads: Sequence[Head]) -> list[Head]:
    """The heads, of some, that a component can reach."""
    return [head for head in heads if head.layer >= component.first_layer_after]
