"""A planted checkpoint: an ordinary Hugging Face GPT-2 whose heads, categories and spectrum are known."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.planted.codes import build_codes, split_space
from qkatlas.pipeline.planted.heads import SELF_SUPPRESSING, decoy_circuit, place_roles, target_circuit
from qkatlas.pipeline.planted.layers import BlockWriter
from qkatlas.pipeline.planted.vocabulary import PlantedVocabulary, build_vocabulary, tokenizer_files
from qkatlas.pipeline.text import streams

Float32 = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class PlantedShape:
    """Dimensions of one size, and where its decoys stand unless the target takes their place."""

    n_vocab: int
    d_model: int
    n_layer: int
    n_head: int
    n_ctx: int
    n_categories: int
    n_category_dims: int  # positive eigenvalues of the target; the other d_head - n_category_dims are negative
    decoys: tuple[tuple[str, int, int], ...]  # (role, layer, head)


_SHALLOW_DECOYS = (
    ("duplicate-token", 0, 1), ("semantic", 1, 2), ("previous-token", 1, 3), ("BOS sink", 1, 7),
    ("duplicate-token", 2, 0), ("induction", 2, 4), ("anti-self", 2, 6),
)  # fmt: skip
SHAPES = {
    "full": PlantedShape(
        n_vocab=50257, d_model=768, n_layer=12, n_head=12, n_ctx=1024, n_categories=64, n_category_dims=31,
        decoys=(
            ("duplicate-token", 0, 5), ("semantic", 2, 7), ("duplicate-token", 3, 0), ("previous-token", 4, 11),
            ("induction", 5, 1), ("BOS sink", 7, 6), ("anti-self", 10, 7),
        ),
    ),
    "small": PlantedShape(
        n_vocab=2048, d_model=384, n_layer=3, n_head=12, n_ctx=512,
        n_categories=24, n_category_dims=12, decoys=_SHALLOW_DECOYS
    ),
    "tiny": PlantedShape(
        n_vocab=1024, d_model=128, n_layer=3, n_head=8, n_ctx=512,
        n_categories=8, n_category_dims=4, decoys=_SHALLOW_DECOYS
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PlantedDesign:
    """What to plant."""

    size: str = "full"  # full = GPT-2 small's shape; small = 3 layers of 384; tiny = 3 layers of 128
    seed: int = 0  # of every random choice
    # Root mean square norm of the Gaussian vectors added to each token's category and identity codes, relative to the
    # code they are added to. At least 95% of a planted token's top-10 keys stay in its category up to 0.3 (tiny: 0.15).
    noise: float = 0.0
    # Spectral norm of the skew-symmetric part of W' relative to its largest |eigenvalue|; the same up to 0.5.
    skew: float = 0.0
    head: str = "L1H5"  # the target head; not in layer 0, whose input holds no category code

    def __post_init__(self) -> None:
        if self.size not in SHAPES:
            raise ValueError(f"planted size {self.size!r} is unknown: choose one of {', '.join(SHAPES)}")
        if self.seed < 0:
            raise ValueError(f"planted seed {self.seed} is negative: choose 0 or more")
        for name in ("noise", "skew"):
            value = getattr(self, name)
            if not 0.0 <= value <= 10.0:
                raise ValueError(f"planted {name} {value} is outside 0 to 10: choose a ratio such as 0.3")
        target = Head.parse(self.head)
        target.require_inside(self.shape.n_layer, self.shape.n_head)
        if target.layer == 0:
            raise ValueError(
                f"planted head {self.head} is in layer 0, whose input holds no MLP_0 output and so no category code: "
                f"choose L1H0 or later"
            )

    @property
    def shape(self) -> PlantedShape:
        """Dimensions of this size."""
        return SHAPES[self.size]

    @property
    def target(self) -> tuple[int, int]:
        """(layer, head) of the target."""
        target = Head.parse(self.head)
        return target.layer, target.index


@dataclass(frozen=True, kw_only=True)
class PlantedCheckpoint:
    """Everything that a checkpoint directory holds."""

    config: dict[str, Any]  # config.json
    tensors: dict[str, Float32]  # model.safetensors, names and shapes of GPT2LMHeadModel
    tokenizer_files: dict[str, str]  # file name -> text
    truth: dict[str, Any]  # truth.json


def plant(design: PlantedDesign) -> PlantedCheckpoint:
    """Builds a checkpoint with known truth.

    The residual stream is cut into orthogonal subspaces, all orthogonal to the ones vector. W_E writes each word's
    identity (I) and its category's direction (C0); MLP_0 has one neuron a category, which reads C0 and writes the
    category's code (C). The target head attends by C and away from I; every other block writes only into the filler.

    Args:
        design: size, seed, difficulty and place of the target.

    Returns:
        Configuration, float32 tensors, tokenizer files and truth; the same design gives the same checkpoint.
    """
    shape = design.shape
    d_head = shape.d_model // shape.n_head
    n_structured = d_head - max(2, d_head // 8)
    # One generator a part: a change to one part leaves the others as they were.
    rngs = [streams.PLANTED.generator(design.seed, part) for part in range(5)]
    vocabulary = build_vocabulary(size=shape.n_vocab, n_categories=shape.n_categories, rng=rngs[0])
    spaces = split_space(
        d_model=shape.d_model,
        d_head=d_head,
        n_categories=shape.n_categories,
        n_category_dims=shape.n_category_dims,
        n_structured=n_structured,
        rng=rngs[1],
    )
    codes = build_codes(vocabulary, spaces, n_ctx=shape.n_ctx, noise=design.noise, rng=rngs[2])
    target = target_circuit(spaces, skew=design.skew, d_head=d_head, rng=rngs[3])
    roles = place_roles(shape.decoys, target=design.target, n_head=shape.n_head)
    circuits = {
        place: decoy_circuit(role, spaces, codes, d_head=d_head, rng=rngs[3])
        for place, role in roles.items()
        if role != SELF_SUPPRESSING
    } | {design.target: target.circuit}

    tensors: dict[str, Float32] = {"transformer.wte.weight": codes.embedding, "transformer.wpe.weight": codes.position}
    writer = BlockWriter(spaces=spaces, codes=codes, d_model=shape.d_model, n_head=shape.n_head, rng=rngs[4])
    for layer in range(shape.n_layer):
        here = {head: circuits[at, head] for at, head in circuits if at == layer}
        copying = [head for head in here if roles[layer, head] == "previous-token"]
        tensors |= writer.layer(layer, circuits=here, copying=copying)
    tensors["transformer.ln_f.weight"], tensors["transformer.ln_f.bias"] = writer.layer_norm()

    truth = {
        "design": asdict(design),
        "shape": {key: value for key, value in asdict(shape).items() if key != "decoys"} | {"d_head": d_head},
        "target": design.head,
        "heads": {f"L{layer}H{head}": role for (layer, head), role in sorted(roles.items())},
        "eigenvalues": list(target.eigenvalues),
        "skew_singular_values": list(target.skew_singular_values),
        "bos_token_id": vocabulary.bos_token_id,
        "categories": _categories(vocabulary),
    }
    return PlantedCheckpoint(
        config=_config(shape, vocabulary.bos_token_id),
        tensors=tensors,
        tokenizer_files=tokenizer_files(vocabulary, n_ctx=shape.n_ctx),
        truth=truth,
    )


def _categories(vocabulary: PlantedVocabulary) -> list[dict[str, Any]]:
    """The categories in plain JSON types."""
    return [
        {
            "name": category.name,
            "words": [
                {"word": word.word, "surface": list(word.surfaces), "token_ids": list(word.token_ids)}
                for word in category.words
            ],
        }
        for category in vocabulary.categories
    ]


def _config(shape: PlantedShape, bos_token_id: int) -> dict[str, Any]:
    """Content of config.json: GPT-2 small's settings at this shape."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": shape.n_vocab,
        "n_positions": shape.n_ctx,
        "n_ctx": shape.n_ctx,
        "n_embd": shape.d_model,
        "n_layer": shape.n_layer,
        "n_head": shape.n_head,
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "attn_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "resid_pdrop": 0.1,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "bos_token_id": bos_token_id,
        "eos_token_id": bos_token_id,
        "dtype": "float32",
    }
