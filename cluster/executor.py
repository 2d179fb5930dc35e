"""What every executor offers: its capacity, shared values, and a map that reports each item as it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What a cluster has, whether busy or not."""

    nodes: int
    cpus: int
    """Processor cores of all nodes together."""
    cpus_per_node: int
    """Cores of the smallest node."""
    gpus: int

    def __str__(self) -> str:
        return f"{_count(self.nodes, 'node')}, {_count(self.cpus, 'CPU')} and {_count(self.gpus, 'GPU')}"


@dataclass(frozen=True, kw_only=True)
class Grant:
    """What one worker may use."""

    cpus: int
    """Threads."""
    gpus: int
    """0, or 1 whole GPU: fractions isolate no memory."""
    workers: int
    """Workers that run at the same time."""

    MOST_CPUS = 4
    """Threads that a shard of 4096 rows keeps busy; a larger node runs more workers."""

    @property
    def device(self) -> str:
        """Where the worker's arrays are computed: `cuda` or `cpu`."""
        return "cuda" if self.gpus else "cpu"

    @classmethod
    def divide(cls, capacity: Capacity, gpus: int | None, *, most_cpus: int = MOST_CPUS) -> Grant:
        """Divide a cluster among workers.

        Args:
            capacity: what the cluster has.
            gpus: GPUs to use; 0 = CPUs only, None = all there are.
            most_cpus: threads that a worker can use.

        Returns:
            One GPU a worker, or up to that many threads a worker on CPUs.

        Raises:
            ValueError: if the cluster has fewer GPUs than asked for.
        """
        wanted = capacity.gpus if gpus is None else gpus
        if wanted > capacity.gpus:
            fewer = f"ask for at most {capacity.gpus}, or " if capacity.gpus else ""
            raise ValueError(f"--gpus {wanted} is more than the cluster has ({capacity}); {fewer}use --gpus 0 for CPUs")
        if wanted:
            return cls(cpus=max(1, min(capacity.cpus // wanted, most_cpus)), gpus=1, workers=wanted)
        cpus = max(1, min(capacity.cpus_per_node, most_cpus))
        return cls(cpus=cpus, gpus=0, workers=max(1, capacity.cpus // cpus))


@dataclass(frozen=True)
class Failure:
    """Why an item could not be computed."""

    kind: str
    """Name of the error's class."""
    message: str
    trace: str
    """The worker's traceback, where there was one."""

    def __str__(self) -> str:
        first_line = self.message.strip().splitlines()[0] if self.message.strip() else "no message"
        return f"{self.kind}: {first_line}"


@dataclass(frozen=True)
class Outcome(Generic[Item, Value]):
    """How one item ended: with a value or with a failure."""

    item: Item
    value: Value | None = None
    failure: Failure | None = None


@dataclass(frozen=True)
class Handle:
    """A value that was put where workers can read it; they are given the value itself."""

    reference: Any


class Executor(Protocol):
    """Runs a function over items, somewhere."""

    name: str

    def capacity(self) -> Capacity:
        """What there is to run on."""
        ...

    def start(self, grant: Grant) -> None:
        """Get ready to run workers of this size."""
        ...

    def put(self, value: Any) -> Handle:
        """Share a value with all workers, once."""
        ...

    def map(
        self, function: Callable[..., Value], tasks: Iterable[tuple[Item, tuple[Any, ...]]]
    ) -> Iterator[Outcome[Item, Value]]:
        """Call `function(grant, item, *arguments)` for every task, in any order.

        Args:
            function: importable on the workers.
            tasks: items with their arguments; a Handle among these arrives as its value. Taken one by one, as
                workers come free.

        Returns:
            One outcome an item, as they end. An error of the function is an outcome; only lost workers are retried.
        """
        ...

    def close(self) -> None:
        """Stop the workers."""
        ...

    def __enter__(self) -> Executor: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
