"""Steps of a run: what each computes, where, and how long that takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from qkatlas.jobs.plan.device import GPU_EFFICIENCY, Core, Gpu

DRIVER, WORKERS = "driver", "workers"


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is to be computed; each amount is a number of the things that a `Core` has a rate for."""

    float32: float = 0.0
    """FLOPs of float32 products."""
    float64: float = 0.0
    """FLOPs of float64 products."""
    scores: float = 0.0
    """Scores to be looked at."""
    kept: float = 0.0
    """Kept keys, in keys of 64 dimensions."""
    values: float = 0.0
    """Values to pass over in float64."""
    packed: float = 0.0
    """Values of keys to prepare once more."""
    written: float = 0.0
    """Bytes of Parquet."""
    hashed: float = 0.0
    """Bytes to hash."""
    loads: float = 0.0
    """How often TransformerLens is loaded."""

    def __add__(self, other: Load) -> Load:
        return Load(**{field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(Load)})

    def __mul__(self, count: float) -> Load:
        return Load(**{field.name: getattr(self, field.name) * count for field in fields(Load)})

    def core_seconds(self, core: Core) -> float:
        """Seconds on one core."""
        nanoseconds = (
            self.scores * core.score_ns
            + self.kept * core.kept_ns
            + self.values * core.value_ns
            + self.packed * core.pack_ns
        )
        products = self.float32 / core.float32 + self.float64 / core.float64
        files = self.written / core.write_bytes + self.hashed / core.hash_bytes
        return products + nanoseconds * 1e-9 + files + self.loads * core.load

    def gpu_seconds(self, gpu: Gpu, sweeps: int) -> float:
        """Seconds of the products at the peak of a GPU: nothing can be faster there.

        Args:
            gpu: the GPU.
            sweeps: how often it makes the float32 products.
        """
        return sweeps * self.float32 / gpu.float32 + self.float64 / gpu.float64


@dataclass(frozen=True, kw_only=True)
class Step:
    """One kind of work of a run."""

    name: str
    place: str
    """DRIVER or WORKERS."""
    load: Load
    """Of the whole run."""
    shards: int = 1
    """Pieces that can be computed at once: of a layer, where one layer follows the other."""
    each_worker: bool = False
    """Whether every worker does all of it, as with keys that it prepares for itself."""
    one_thread: bool = False
    """Whether a worker's other threads wait."""
    torch_threads: bool = False
    """Whether torch shares it among its own threads: as many as Ray grants cores, which is one beside a GPU."""
    gpu_sweeps: int = 0
    """How often a GPU makes the float32 products; 0 where all products stay on the CPU."""

    def seconds(self, workers: int, threads: int, core: Core, gpu: Gpu | None) -> float:
        """Seconds that the step adds to the run.

        Args:
            workers: of the run.
            threads: of one worker, and of the driver.
            core: what a core does.
            gpu: of each worker, if it has one.
        """
        if gpu is not None and self.gpu_sweeps:
            all_of_it = self.load.gpu_seconds(gpu, self.gpu_sweeps) / GPU_EFFICIENCY
        else:
            alone = self.one_thread or (gpu is not None and self.torch_threads)
            all_of_it = self.load.core_seconds(core) / (1 if alone else threads)
        if self.place == DRIVER or self.each_worker:
            return all_of_it
        return all_of_it * math.ceil(self.shards / workers) / self.shards

    def bound(self, workers: int, gpu: Gpu) -> float:
        """Seconds of the step's products at the peak of all GPUs together: no run takes less."""
        return self.load.gpu_seconds(gpu, self.gpu_sweeps) / workers if self.gpu_sweeps else 0.0
