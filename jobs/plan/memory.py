"""What a run holds in memory at once, in bytes: private to a process, shared on a node, and on a GPU.

Shapes: V vocabulary, D model, H head dimension, R rows of a shard, K kept keys.
"""

from __future__ import annotations

from dataclasses import dataclass

from qkatlas.jobs.plan.shape import Shape
from qkatlas.pipeline.scoring.cpu_tiling import PACKED_BYTES
from qkatlas.pipeline.scoring.cuda import BLOCK_ROWS, LIST_ENTRIES

MB = 1 << 20

WORKER_LIBRARIES = 520 * MB
"""A worker of full-vocab before it has any array: measured on the tiny planted model."""
PROMPT_WORKER_LIBRARIES = 850 * MB
"""A worker that has run prompts too, with TransformerLens loaded."""
DRIVER_LIBRARIES = 430 * MB
PROMPT_DRIVER_LIBRARIES = 770 * MB
"""The driver likewise."""
TOKENIZER_LIBRARIES = 150 * MB
"""What the driver holds beside these where the model's tokenizer, which is transformers', reads a text: measured."""
_TOKEN_OF_GGUF = 1700.0
"""Bytes that this keeps for each token of a GGUF file, whose names and merges it takes apart: measured on 49152."""
GGUF_WEIGHTS = 180 * MB
"""What the driver holds more when all weights come from a GGUF file: on two scans of SmolLM2 it took 164 and 270 MB
more than its arrays explain, which was not traced to one of them."""
ALLOCATORS = 40 * MB
"""What allocators keep of arrays that were given back: measured on the full planted model and SmolLM2."""

_MOMENT_ROWS = 4096
_MOMENT_COPIES = 8
"""Float64 copies of a block of keys that the exact moments are taken from."""

CUDA_CONTEXT = 600 * MB
"""CUDA's own; assumed, not measured."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Peaks, in bytes."""

    worker: float
    """Private to one worker."""
    shared: float
    """Ray's object store, once on every node; every process that reads it counts it as resident."""
    driver: float
    """Private to the driver."""
    gpu: float
    """On the GPU of a worker."""


def tokenizer(shape: Shape, streams: float) -> float:
    """Bytes that the driver keeps once a text was read by the model's tokenizer.

    Args:
        shape: the model.
        streams: bytes that are held afterwards, by `held_streams`; they take the place of what the names of a GGUF file
            took.
    """
    return TOKENIZER_LIBRARIES + gguf_tokens(shape, streams)


def gguf_tokens(shape: Shape, streams: float) -> float:
    """Bytes of these that a GGUF file takes where transformers is loaded anyhow."""
    return max(0.0, _TOKEN_OF_GGUF * shape.vocab_size - streams) if shape.in_gguf else 0.0


def moments(vocab_size: int, width: int) -> float:
    """Bytes of a worker while it prepares keys: float64 blocks of them, and second moments."""
    rows = min(vocab_size, _MOMENT_ROWS)
    return _MOMENT_COPIES * 8.0 * rows * width + 10 * 8.0 * width**2


def packed(vocab_size: int, width: int) -> float:
    """Bytes of the prepared keys that a CPU worker holds."""
    needed = 4.0 * vocab_size * width
    return needed if needed <= PACKED_BYTES else 0.0


def on_gpu(vocab_size: int, width: int, rows: int, kept: int) -> float:
    """Bytes on the GPU while rows are scored: keys twice, and for a block of rows its lists and their float64 products.

    Args:
        vocab_size: V.
        width: H, or D for kin.
        rows: of a shard.
        kept: K.
    """
    rows = min(rows, BLOCK_ROWS)
    groups = max(vocab_size / 64, 4 * kept)
    lists = rows * (4.0 * groups + 8.0 * (2 * kept + 128) + 4.0 * 128)
    exact = 32.0 * width * min(LIST_ENTRIES, rows * (kept + 8))
    return CUDA_CONTEXT + 8.0 * vocab_size * width + 40.0 * rows * width + lists + exact
