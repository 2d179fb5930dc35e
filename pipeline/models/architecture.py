"""What of a model's configuration changes the numbers, one type for every family."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from qkatlas.pipeline.models.rotary import Rotary

MOST_LAYERS = 10_000
"""Largest number of layers."""

_MOST = {"n_layers": MOST_LAYERS, "n_heads": 10_000, "n_kv_heads": 10_000, "vocab_size": 2**24}
"""Largest sizes, far above those of any model, and low enough that work can be listed; others have 31 bits."""

_MOST_HEADS = 100_000
"""Heads of a model in all."""


@dataclass(frozen=True, kw_only=True)
class Norm:
    """How a model normalises what enters a part of it.

    Attributes:
        kind: `layer` (centred, divided by the standard deviation) or `rms` (divided by the root mean square).
        eps: added to the variance or mean square.
        plus_one: whether the gain is 1 + weight.
    """

    kind: str
    eps: float
    plus_one: bool = False


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The shape of a model and what else of its configuration changes the numbers."""

    family: str
    """Name of the family, whose code knows where each weight is."""
    n_layers: int
    n_heads: int
    """Query heads of a layer."""
    n_kv_heads: int
    """Key and value heads of a layer; query head h reads number h // (n_heads / n_kv_heads)."""
    d_model: int
    d_head: int
    """Width of one head's queries and keys, H."""
    d_mlp: int
    vocab_size: int
    n_ctx: int
    """Positions the model reads."""
    bos_token_id: int | None
    tied: bool
    """Whether the unembedding is the embedding."""
    norm: Norm
    activation: str
    """Of the MLP blocks, by its Hugging Face name."""
    score_width: float | None
    """Dot products are divided by its square root, usually d_head; None = they are not divided."""
    scale_by_layer: bool = False
    """Whether scores are divided by the number of the layer too, counted from 1."""
    score_cap: float | None = None
    """Scores x become cap tanh(x / cap)."""
    logit_cap: float | None = None
    """Logits likewise."""
    embed_scale: float = 1.0
    """Factor of the token embedding."""
    rotary: Rotary | None = None
    """How queries and keys are turned; None = positions are learned and added to the embedding."""
    local_rotary: Rotary | None = None
    """How layers with a window turn theirs; None = like the others."""
    window: int | None = None
    """Positions that a layer with a window reads: the query's own and those before it."""
    windowed: tuple[int, ...] = ()
    """The layers with a window."""
    biases: tuple[str, ...] = ()
    """Which projections have a bias, where a family has models of both kinds: queries, keys, values, output, mlp."""
    gated: bool = False
    """Whether the MLP multiplies its activations by a second projection."""
    head_norms: bool = False
    """Whether each head's queries and keys are normalised."""
    after_norms: bool = False
    """Whether what attention and MLP add is normalised."""
    parallel: bool = False
    """Whether attention and MLP read the same residual stream."""

    def require_possible(self, source: str) -> None:
        """Check every size, before any work is sized by it.

        Args:
            source: the checkpoint's name, for messages.

        Raises:
            ValueError: naming the first size that no checkpoint can have.
        """
        for name in ("n_layers", "n_heads", "n_kv_heads", "d_model", "d_head", "d_mlp", "vocab_size", "n_ctx"):
            size, most = getattr(self, name), _MOST.get(name, 2**31 - 1)
            if not 1 <= size <= most:
                shown = size if abs(size) < 10**15 else "of many digits"
                raise ValueError(
                    f"config.json of {source} has impossible sizes: {name} {shown} is not between 1 and {most}"
                )
        if self.n_layers * self.n_heads > _MOST_HEADS:
            raise ValueError(
                f"config.json of {source} has impossible sizes: {self.n_layers} layers of {self.n_heads} heads are "
                f"more than {_MOST_HEADS} heads"
            )

    def require_bos(self) -> int:
        """The token that begins every prompt.

        Raises:
            ValueError: if the model has none.
        """
        if self.bos_token_id is None:
            raise ValueError(
                f"the model's {self.vocab_size} tokens have no BOS, which every prompt begins with; "
                "set bos_token_id in its config.json"
            )
        return self.bos_token_id

    def score_scale(self, layer: int) -> float:
        """Factor between the dot product q.k and the pre-softmax attention score of a layer, usually 1/sqrt(H)."""
        scale = 1.0 if self.score_width is None else 1.0 / math.sqrt(self.score_width)
        return scale / (layer + 1) if self.scale_by_layer else scale

    def window_of(self, layer: int) -> int | None:
        """Positions that a layer reads; None = all."""
        return self.window if layer in self.windowed else None

    def rotary_of(self, layer: int) -> Rotary | None:
        """How a layer turns queries and keys."""
        return self.local_rotary if self.local_rotary is not None and layer in self.windowed else self.rotary

    def identity(self) -> dict[str, Any]:
        """What of the architecture is part of a run's identity."""
        if self.family != "gpt2":
            identity: dict[str, Any] = json.loads(json.dumps(asdict(self)))  # as a record that is read again has it
            return identity
        # The names and the number of fields are part of every run id that exists.
        return {
            "n_layers": self.n_layers,
            "n_heads": self.n_heads,
            "d_model": self.d_model,
            "d_mlp": self.d_mlp,
            "vocab_size": self.vocab_size,
            "n_ctx": self.n_ctx,
            "layer_norm_eps": self.norm.eps,
            "activation": self.activation,
            "scale_attn_weights": self.score_width is not None,
            "scale_attn_by_inverse_layer_idx": self.scale_by_layer,
            "bos_token_id": self.bos_token_id,
            "tied": self.tied,
        }
