"""Steps: what a job computes, each over its shards, from one value that all of them share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import pyarrow as pa

from qkatlas.cluster.executor import Grant
from qkatlas.jobs.loop.clock import Clock
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.shard import Shard

Shared = TypeVar("Shared")
Each = TypeVar("Each")


@dataclass(frozen=True, kw_only=True)
class Context:
    """What the driver prepares a step with.

    Attributes:
        run: the run, with the receipts of what was committed.
        threads: threads that the driver may use; no result depends on it.
        clock: the clock of the submission.
    """

    run: Run
    threads: int
    clock: Clock


class Produced(NamedTuple):
    """What a worker hands to the loop for one shard.

    Attributes:
        tables: rows by the names of the job's tables; the loop writes each as a part.
        summary: results of the whole shard that the run's own tables are put together from; JSON values.
        measures: numbers about the work itself beside its cost; they identify nothing.
    """

    tables: Mapping[str, pa.Table] = {}
    summary: Mapping[str, Any] = {}
    measures: Mapping[str, Any] = {}


@dataclass(frozen=True, kw_only=True, eq=False)
class AnyStep:
    """A step whatever its types, as the loop takes it; jobs make a `Step`, whose types are checked against each other.

    A list of `Step[Any, Any]` would let every mistake pass, for what is expected of a call decides its type variables.
    """

    kind: str
    shards: Sequence[Shard]
    share: Callable[[Context], Any]
    each: Callable[[Shard], Any]
    compute: Callable[[Grant, Shard, Any, Any], Produced]
    after: Sequence[AnyStep] = field(default=())
    preparing: str = "preparing"
    per_device: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Step(AnyStep, Generic[Shared, Each]):
    """One kind of work of a job.

    Attributes:
        kind: of its shards; of the first of them where they are of several.
        shards: fixed pieces, the same on every machine.
        share: makes on the driver, once, what all shards need; None where what it stands on is missing or stale. The
            loop hashes it, and puts it where workers read it.
        each: makes what one shard needs beside it; small, for it is sent with the shard.
        compute: computes a shard on a worker; at the top level of a module, where workers find it by its name.
        after: steps of the same job that must have ended before, because `share` reads what they committed.
        preparing: what `share` does, for the timings.
        per_device: whether results differ in their last bits between kinds of devices, so that a run must not mix them.
    """

    share: Callable[[Context], Shared | None]
    each: Callable[[Shard], Each]
    compute: Callable[[Grant, Shard, Shared, Each], Produced]


def nothing_more(shard: Shard) -> None:
    """For `Step.each` where a shard needs nothing beside its bounds and what is shared."""


def stages(steps: Sequence[AnyStep]) -> list[list[AnyStep]]:
    """Steps in groups that can be computed together: none waits for another of its own group.

    The next step's `share` then runs on the driver while workers compute the one before.
    """
    found: list[list[AnyStep]] = []
    for step in steps:
        if not found or any(before in found[-1] for before in step.after):
            found.append([])
        found[-1].append(step)
    return found
