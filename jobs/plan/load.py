"""What the parts of a scoring run compute.

Shapes: V vocabulary, D model, H head dimension, K kept keys, N kin.
"""

from __future__ import annotations

from qkatlas.jobs.plan.shape import Shape
from qkatlas.jobs.plan.step import Load
from qkatlas.pipeline.circuit.kinds import CONTEXT, DRAWS, EMBEDDING, PREFIX, WINDOWS
from qkatlas.pipeline.circuit.spectrum import NULL_DRAWS
from qkatlas.pipeline.circuit.states import REFERENCE_LENGTH, REFERENCE_PROMPTS
from qkatlas.pipeline.models.blocks import BLOCK_ROWS
from qkatlas.pipeline.scoring.cpu_tiling import PACKED_BYTES, ROW_TILE
from qkatlas.pipeline.text.calibration import LENGTH

REFERENCE_TOKENS = REFERENCE_PROMPTS * (1 + REFERENCE_LENGTH)
"""Tokens of the reference prompts behind the states `mean`."""


def passing_states(
    shape: Shape, layers: int, states: str, *, windows: int | None = None, draws: int | None = None
) -> Load:
    """Take the states of the whole vocabulary through some layers.

    Args:
        shape: the model.
        layers: how many.
        states: `--states`; `bos`, `prefix` and `context` run the attention too, `mean` the reference prompts, and
            `context` a token once for each of its windows.
        windows: `--windows`; what `--prefix` adds to their length is left out.
        draws: `--draws`.
    """
    layers = 0 if states == EMBEDDING else layers
    streams = (draws or DRAWS) if states == CONTEXT else 1
    tokens = shape.vocab_size * streams * layers
    weights = shape.mlp_weights + (shape.attention_weights if states in ("bos", PREFIX, CONTEXT) else 0)
    once = running(shape, REFERENCE_TOKENS, layers) if states == "mean" else Load()
    if states == CONTEXT and layers:
        pool = windows or WINDOWS
        # The pool passes the whole model to be chosen from, its logits are taken twice, and it passes these layers.
        once = running(shape, pool * (1 + LENGTH), shape.n_layers + layers)
        once += Load(float32=4.0 * pool * shape.vocab_size * shape.d_model)
    return Load(float32=2.0 * tokens * weights, values=float(tokens * shape.d_model)) + once


def held_streams(shape: Shape, layers: int, states: str, *, windows: int | None, draws: int | None) -> float:
    """Bytes that the states `context` hold beside the states themselves.

    They are a stream for each token and window of it, the unembedding, the pool, and copies of what a block of tokens
    reads.

    Args:
        shape: the model.
        layers: that the states pass.
        states: `--states`.
        windows: `--windows`.
        draws: `--draws`.
    """
    if states != CONTEXT or not layers:
        return 0.0
    pool = 3.0 * (windows or WINDOWS) * (1 + LENGTH)  # its streams, keys and values
    streams = 4.0 * shape.d_model * (shape.vocab_size * (1 + (draws or DRAWS)) + pool)
    read = 4.0 * BLOCK_ROWS * (1 + LENGTH) * (shape.kv_heads or shape.n_heads) * shape.d_head
    # Keys and values on each of two threads, as they are picked and as a product takes them, and what allocators keep.
    return streams + 2 * 7 * read


def reads_text(states: str, prefix: str | None) -> bool:
    """Whether the states' tokens come from the model's tokenizer; a prefix of ids, such as #0,#28, is no text."""
    return states == CONTEXT or (states == PREFIX and not (prefix or "").startswith("#"))


def running(shape: Shape, tokens: int, layers: int) -> Load:
    """Run the model itself on some tokens of prompts, through some layers; scores among prompts are left out."""
    return Load(float32=2.0 * tokens * layers * (shape.attention_weights + shape.mlp_weights))


def projecting(shape: Shape) -> Load:
    """Queries and keys of one head for the whole vocabulary."""
    values = shape.vocab_size * shape.d_model
    return Load(float64=4.0 * values * shape.d_head, values=float(values))


def preparing(vocab_size: int, width: int) -> Load:
    """Exact moments of the keys: four products of their integer pieces."""
    return Load(float64=8.0 * vocab_size * width**2, values=3.0 * vocab_size * width)


def scoring(vocab_size: int, width: int, kept: int) -> Load:
    """Score every token against every token, and decide the best keys and the own rank in float64."""
    pairs = float(vocab_size) ** 2
    exact = float(vocab_size) * (kept + 1)
    refitted = pairs / ROW_TILE * width if 4 * vocab_size * width > PACKED_BYTES else 0.0
    return Load(
        float32=2.0 * pairs * width,
        float64=2.0 * exact * width + 6.0 * vocab_size * width**2,
        scores=pairs,
        kept=exact * (0.4 + 0.6 * width / 64),
        packed=refitted,
    )


def comparing_with_null(shape: Shape) -> Load:
    """Spectrum of one head, and of its random heads: a QR of [D, 2H], a product with [D, D], an eigenproblem of 2H."""
    d, f = float(shape.d_model), 2.0 * shape.d_head
    return Load(float64=NULL_DRAWS * (4 * d * f**2 + 2 * d**2 * f + 20 * f**3))


def scoring_kin(vocab_size: int, width: int, kin: int) -> Load:
    """Scores of every token to its kin."""
    return Load(values=0.5 * vocab_size * kin * width)
