"""The plan of a run: everything that its size follows from, put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qkatlas.cluster.executor import Capacity, Grant, Node
from qkatlas.jobs.plan.device import Core, Gpu
from qkatlas.jobs.plan.memory import Memory
from qkatlas.jobs.plan.shape import Shape
from qkatlas.jobs.plan.step import Step
from qkatlas.jobs.plan.table import PlannedTable
from qkatlas.outputs.runs.shard import Shard


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one run would take.

    Attributes:
        job: its name.
        shape: the model.
        shards: as the job itself would cut them.
        tables: what would be on disk.
        steps: what would be computed.
        memory: what would be held at once.
    """

    job: str
    shape: Shape
    shards: Sequence[Shard]
    tables: Sequence[PlannedTable]
    steps: Sequence[Step]
    memory: Memory

    @property
    def files(self) -> int:
        """Files of a finished run, its manifest included."""
        return 1 + sum(table.files for table in self.tables)

    @property
    def bytes(self) -> float:
        """Bytes on disk of all tables."""
        return sum(table.bytes(self.shape.vocab_size) for table in self.tables)

    @property
    def flops(self) -> float:
        """FLOPs of all products, each made once."""
        return sum(step.load.float32 + step.load.float64 for step in self.steps)


@dataclass(frozen=True, kw_only=True)
class Machines:
    """What a run would be given.

    Attributes:
        grant: workers and their threads, divided as the run itself would divide them.
        gpu: kind of the GPUs; None = CPUs only.
        core: what a core does.
    """

    grant: Grant
    gpu: Gpu | None
    core: Core

    @classmethod
    def of(cls, *, gpus: int, cpus: int, gpu: Gpu | None, core: Core | None = None) -> Machines:
        """Divide GPUs, or else cores, among workers.

        Args:
            gpus: `--gpus`.
            cpus: cores of all workers together.
            gpu: kind of the GPUs.
            core: what a core does.
        """
        grant = Grant.divide(Capacity((Node(cpus, gpus),)), gpus)
        return cls(grant=grant, gpu=gpu if gpus else None, core=core or Core())

    def seconds(self, plan: Plan) -> dict[str, float]:
        """Estimated seconds of each step, one after the other; the driver's partly overlap with the workers'."""
        seconds = {"start": self.core.start}
        for step in plan.steps:
            taken = step.seconds(self.grant.workers, self.grant.cpus, self.core, self.gpu)
            seconds[step.name] = seconds.get(step.name, 0.0) + taken
        return seconds

    def bound(self, plan: Plan) -> float | None:
        """Seconds of the products at the GPUs' peak, which no run can beat; None on CPUs."""
        if self.gpu is None:
            return None
        return sum(step.bound(self.grant.workers, self.gpu) for step in plan.steps)
