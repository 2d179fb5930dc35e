"""What every executor offers: its capacity, shared values, and a map that reports each item as it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")


class ClusterLostError(Exception):
    """The cluster is out of reach, so that nothing more can be computed on it."""


@dataclass(frozen=True)
class Node:
    """What one machine has."""

    cpus: int
    """Processor cores."""
    gpus: int


@dataclass(frozen=True)
class Capacity:
    """What a cluster has, whether busy or not."""

    nodes: tuple[Node, ...]

    @property
    def cpus(self) -> int:
        """Processor cores of all nodes together."""
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> int:
        """GPUs of all nodes together."""
        return sum(node.gpus for node in self.nodes)

    def __str__(self) -> str:
        return f"{_count(len(self.nodes), 'node')}, {_count(self.cpus, 'CPU')} and {_count(self.gpus, 'GPU')}"


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
        """Divide a cluster, whose nodes may differ, among workers of one size.

        Args:
            capacity: what the cluster has.
            gpus: GPUs to use; 0 = CPUs only, None = all there are.
            most_cpus: threads that a worker can use.

        Returns:
            One GPU a worker, with its share of the cores of its node, or CPU workers of as many threads as leave no
            more than a tenth of the cores idle.

        Raises:
            ValueError: if the cluster has fewer GPUs than asked for, or nothing to run on.
        """
        wanted = capacity.gpus if gpus is None else gpus
        if wanted > capacity.gpus:
            fewer = f"ask for at most {capacity.gpus}, or " if capacity.gpus else ""
            raise ValueError(f"--gpus {wanted} is more than the cluster has ({capacity}); {fewer}use --gpus 0 for CPUs")
        if wanted:
            shares = [node.cpus // node.gpus for node in capacity.nodes if node.gpus]
            return cls(cpus=max(1, min(*shares, most_cpus)), gpus=1, workers=wanted)
        if not capacity.cpus:
            raise ValueError(f"the cluster has no CPU to run on ({capacity}); add a node, or wait for one with --wait")

        def workers_of(cpus: int) -> int:
            return sum(node.cpus // cpus for node in capacity.nodes)

        cpus = next(cpus for cpus in range(max(1, most_cpus), 0, -1) if cpus * workers_of(cpus) >= 0.9 * capacity.cpus)
        return cls(cpus=cpus, gpus=0, workers=workers_of(cpus))


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
        """Share a value with all workers, once.

        Raises:
            ClusterLostError: if the cluster cannot take it.
        """
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

        Raises:
            ClusterLostError: if the items that are left can no longer be computed.
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
