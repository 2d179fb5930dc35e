"""What processors can do: GPUs by their data sheets, a core as measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """Peaks of a GPU; tensor cores do not multiply in float32, but some do in float64."""

    name: str
    float32: float
    """FLOP/s."""
    float64: float
    """FLOP/s."""
    memory: float
    """Bytes."""


@dataclass(frozen=True, kw_only=True)
class Core:
    """What one core of a processor does; times are core-nanoseconds.

    Of the machine of benchmarks/README.md: products and scores while it was idle, the rest while it was shared, scaled
    by what products reached then.
    """

    start: float = 5.0
    """Seconds until Ray and the libraries have started."""
    load: float = 4.0
    """Seconds to load TransformerLens, where prompts are run."""
    float32: float = 150e9
    """FLOP/s of float32 products: 2 cores took 1.08 s for 50257^2 scores of 64 dimensions."""
    float64: float = 75e9
    """FLOP/s of float64 products."""
    score_ns: float = 0.45
    """A score beside its product: counted and compared while it is in cache."""
    kept_ns: float = 100.0
    """A kept key: its float64 dot product and its place in the order."""
    value_ns: float = 5.0
    """A value in a float64 pass over the states, such as a LayerNorm."""
    pack_ns: float = 4.0
    """A value of the keys where they are too many to be held prepared and are so again for every tile of rows."""
    write_bytes: float = 80e6
    """Bytes a second of Parquet, compressed, hashed and synced."""
    hash_bytes: float = 1e9
    """Bytes a second of SHA-256."""


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu(name="l4", float32=30.3e12, float64=0.47e12, memory=24e9),
        Gpu(name="l40s", float32=91.6e12, float64=1.43e12, memory=48e9),
        Gpu(name="a100", float32=19.5e12, float64=19.5e12, memory=80e9),
        Gpu(name="h100", float32=67e12, float64=67e12, memory=80e9),
        Gpu(name="h200", float32=67e12, float64=67e12, memory=141e9),
    )
}
"""By NVIDIA's data sheets: L4, L40S, A100 80GB SXM, H100 SXM, H200 SXM; float64 by tensor cores where they have it. The
sheets of the L4 and the L40S give none; it is 1/64 of their float32, as for every GPU of the Ada architecture."""

GPU_EFFICIENCY = 0.5
"""Assumed share of a GPU's peak. Not measured: no GPU was at hand."""
