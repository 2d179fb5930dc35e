"""What a reader needs to know of the machine to judge a benchmark's figures."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path

import torch

INSTRUCTION_SETS = (
    "avx2", "fma", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16",
)  # fmt: skip
"""Those that products of matrices depend on, by their names in /proc/cpuinfo."""


def describe_machine(threads: int) -> dict[str, str]:
    """Return the processor, its instruction sets, threads, and versions of the libraries that compute."""
    processor, flags = platform.processor(), set[str]()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), processor)
        flags = set(next((line.split(":")[1].split() for line in lines if line.startswith("flags")), []))
    described = {
        "processor": processor,
        "instruction_sets": " ".join(name for name in INSTRUCTION_SETS if name in flags) or "unknown",
        "threads": str(threads),
        "python": platform.python_version(),
    }
    for package in ("torch", "numpy", "numba", "faiss-cpu", "triton"):
        try:
            described[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if torch.cuda.is_available():
        described["gpu"] = torch.cuda.get_device_name()
    return described
