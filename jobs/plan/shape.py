"""Shapes of models, as far as they decide what a run takes: those that are computed, and some that are planned only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qkatlas.pipeline.circuit.kinds import AUTO, CONTEXT

if TYPE_CHECKING:
    from qkatlas.pipeline.models.architecture import Architecture


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a transformer."""

    name: str
    n_layers: int
    n_heads: int
    """Query heads of a layer; each is one head of a scan."""
    d_model: int
    d_head: int
    d_mlp: int
    vocab_size: int
    n_ctx: int
    """Positions the model reads."""
    kv_heads: int | None = None
    """Key heads of a layer; None = as many as query heads."""
    mlp_products: int = 2
    """Matrix products of an MLP block: 2, or 3 with a gate."""
    positions: int = 0
    """Rows of a learned positional embedding."""
    tied: bool = True
    """Whether the unembedding is the embedding."""
    computed: bool = False
    """Whether this project can compute it; otherwise it is planned only."""
    auto: str = CONTEXT
    """What `--states auto` is planned as: the costliest it may mean, but where it is `mlp` without being measured."""
    in_gguf: bool = False
    """Whether it lies in a GGUF file, whose tokenizer takes more memory to read."""
    source: str = ""
    """Where the sizes come from."""

    def __post_init__(self) -> None:
        for name in ("n_layers", "n_heads", "d_model", "d_head", "d_mlp", "vocab_size", "n_ctx"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} of shape {self.name} is impossible; give 1 or more")

    def states(self, asked: str) -> str:
        """The kind of token states that `--states` is planned as."""
        return self.auto if asked == AUTO else asked

    @property
    def heads(self) -> int:
        """Heads of the model."""
        return self.n_layers * self.n_heads

    @property
    def attention_weights(self) -> int:
        """Weights of a layer's query, key, value and output projections."""
        kv_heads = self.kv_heads or self.n_heads
        return 2 * self.d_model * self.d_head * (self.n_heads + kv_heads)

    @property
    def mlp_weights(self) -> int:
        """Weights of a layer's MLP."""
        return self.mlp_products * self.d_model * self.d_mlp

    @property
    def lists_repeat(self) -> float:
        """Bytes that ids of keys take in lists, over the bits of all ids.

        Learned heads rank some keys high in many rows; lists name these again and again. Measured on SmolLM2, whose
        heads vary from 0.68 to 1.07. Planted heads choose all keys alike, and other GPT-2 models were never measured.
        """
        return 1.0 if self.positions else 0.85

    @property
    def weights(self) -> int:
        """Weights of the model, biases and norms left out."""
        embeddings = self.vocab_size * (1 if self.tied else 2) + self.positions
        return embeddings * self.d_model + self.n_layers * (self.attention_weights + self.mlp_weights)

    @classmethod
    def read(cls, path: Path, name: str | None = None) -> Shape:
        """The shape of a local checkpoint, from its config.json or the metadata of its GGUF file alone.

        Args:
            path: a Hugging Face model directory, or a GGUF file.
            name: what it is called; None = by its path.

        Raises:
            ValueError: if there is no such configuration, or of an architecture whose shape is not known.
        """
        from qkatlas.pipeline.models.checkpoint import read_architecture

        return cls.of(read_architecture(path), path, name)

    @classmethod
    def of(cls, a: Architecture, path: Path, name: str | None = None) -> Shape:
        """The shape of an architecture.

        Args:
            a: the architecture.
            path: where its checkpoint is, or where the tokenizer is of a model in memory.
            name: what it is called; None = by its path.
        """
        from qkatlas.jobs.inputs.auto import unmeasured

        return cls(
            name=name or str(path), n_layers=a.n_layers, n_heads=a.n_heads, d_model=a.d_model, d_head=a.d_head,
            d_mlp=a.d_mlp,
            vocab_size=a.vocab_size, n_ctx=a.n_ctx, positions=a.n_ctx if a.rotary is None else 0,
            mlp_products=3 if a.gated else 2, kv_heads=a.n_kv_heads if a.n_kv_heads < a.n_heads else None,
            tied=a.tied, computed=True, in_gguf=not (path / "config.json").is_file(),
            source="config.json" if path.is_dir() else path.name,
            auto="mlp" if unmeasured(path, a) is not None else CONTEXT,
        )  # fmt: skip


def find_shape(name: str) -> Shape:
    """The shape that `--model` names; no weights are read, made or downloaded.

    Args:
        name: a preset, `planted[-small|-tiny]`, `smollm2`, a model directory or a GGUF file.

    Raises:
        ValueError: if there is none.
    """
    from qkatlas.jobs.inputs.resolve import PLANTED, SMOLLM2, resolve
    from qkatlas.outputs.places.open import at_home

    if name in PRESETS:
        return PRESETS[name]
    if name in PLANTED:
        from qkatlas.pipeline.planted.checkpoint import SHAPES

        planted = SHAPES[PLANTED[name]]
        return Shape(
            name=name, n_layers=planted.n_layer, n_heads=planted.n_head, d_model=planted.d_model,
            d_head=planted.d_model // planted.n_head, d_mlp=4 * planted.d_model, vocab_size=planted.n_vocab,
            n_ctx=planted.n_ctx, positions=planted.n_ctx, computed=True, auto="mlp", source="the planted design",
        )  # fmt: skip
    if name == SMOLLM2:
        return Shape.read(resolve(name, print), name)
    path = Path(at_home(name))
    if not name.strip() or (not path.is_dir() and not (path.is_file() and path.suffix == ".gguf")):
        raise ValueError(
            f"--model {name!r} is no directory, no GGUF file and no known shape; name one of "
            f"{', '.join([*PLANTED, SMOLLM2, *PRESETS])}, or a directory with config.json"
        )
    return Shape.read(path)


def _gpt2(name: str, *, n_layers: int, n_heads: int, d_model: int) -> Shape:
    return Shape(
        name=name, n_layers=n_layers, n_heads=n_heads, d_model=d_model, d_head=64, d_mlp=4 * d_model,
        vocab_size=50257, n_ctx=1024, positions=1024, computed=True, source=f"openai-community/{name} config.json",
    )  # fmt: skip


def _gemma_2(name: str, **sizes: Any) -> Shape:
    return Shape(
        name=name, **sizes, d_head=256, vocab_size=256000, n_ctx=8192, mlp_products=3,
        source=f"google/{name} config.json",
    )  # fmt: skip


_LLAMA_3_8B = Shape(
    name="llama-3-8b", n_layers=32, n_heads=32, kv_heads=8, d_model=4096, d_head=128, d_mlp=14336, vocab_size=128256,
    n_ctx=8192, mlp_products=3, tied=False, source="meta-llama/Meta-Llama-3-8B config.json",
)  # fmt: skip

PRESETS = {
    shape.name: shape
    for shape in (
        _gpt2("gpt2", n_layers=12, n_heads=12, d_model=768),
        _gpt2("gpt2-medium", n_layers=24, n_heads=16, d_model=1024),
        _gpt2("gpt2-large", n_layers=36, n_heads=20, d_model=1280),
        _gpt2("gpt2-xl", n_layers=48, n_heads=25, d_model=1600),
        _LLAMA_3_8B,
        replace(
            _LLAMA_3_8B, name="llama-3-70b", n_layers=80, n_heads=64, d_model=8192, d_mlp=28672,
            source="meta-llama/Meta-Llama-3-70B config.json",
        ),
        _gemma_2("gemma-2-2b", n_layers=26, n_heads=8, kv_heads=4, d_model=2304, d_mlp=9216),
        _gemma_2("gemma-2-9b", n_layers=42, n_heads=16, kv_heads=8, d_model=3584, d_mlp=14336),
    )
}  # fmt: skip
"""Shapes by the name of their checkpoint, as its configuration on the Hugging Face hub gives them."""
