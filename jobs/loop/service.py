"""The one loop that every job runs through: plan, find what is missing, compute it, commit."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from qkatlas.cluster.executor import ClusterLostError, Executor, Failure, Grant
from qkatlas.jobs.loop.clock import Clock
from qkatlas.jobs.loop.progress import Progress
from qkatlas.outputs.places.folder import Folder, open_folder
from qkatlas.outputs.runs.identity import identify
from qkatlas.outputs.runs.journal import Receipt
from qkatlas.outputs.runs.part import Part, faults
from qkatlas.outputs.runs.provenance import provenance
from qkatlas.outputs.runs.run import DamagedRunError, Run
from qkatlas.outputs.runs.shard import Shard
from qkatlas.outputs.runs.store import unusable

_ROUNDS = 3
"""Shards go stale when the inputs have other bits here than on the machine that began the run; a second round computes
those again. A third would mean that the inputs change by themselves."""


class Subject(Protocol):
    """The model that a job is about: opened by the job itself, or by the run that it goes on from."""

    @property
    def name(self) -> str:
        """What the user called it."""
        ...

    @property
    def identity(self) -> dict[str, Any]:
        """What of it changes results."""
        ...


class Job(Protocol):
    """What a job tells the loop about itself."""

    name: str

    @property
    def model(self) -> Subject:
        """The model whose results these are."""
        ...

    def settings(self) -> dict[str, Any]:
        """The settings that change results."""
        ...

    def plan(self) -> list[Shard]:
        """The shards, the same on every machine."""
        ...

    def covers(self, shards: Sequence[Shard]) -> bool:
        """Whether shards, however cut, are all of the job."""
        ...

    def scores_in(self, shard: Shard) -> int:
        """Scores a shard computes, for progress; 0 where a job computes none."""
        ...

    def prepare(self, threads: int, clock: Clock) -> None:
        """Compute on the driver what can show that the request cannot be met; ValueError if so."""
        ...

    def stages(self, missing: Sequence[Shard]) -> list[list[Shard]]:
        """The missing shards in groups, each of which may stand on what the groups before it committed."""
        ...

    def tasks(
        self, stage: Sequence[Shard], run: Run, executor: Executor, threads: int, clock: Clock
    ) -> Iterator[tuple[Shard, tuple[Any, ...]]]:
        """Each shard of a stage with the arguments of `run_shard`; none where what it stands on is missing."""
        ...

    @property
    def run_shard(self) -> Callable[..., Receipt]:
        """Computes a shard on a worker, writes its parts, returns its receipt."""
        ...

    def reduce(self, run: Run) -> list[Part]:
        """Write what needs all shards."""
        ...


@dataclass(frozen=True)
class Result:
    """How a submission ended."""

    run: Run
    failures: dict[str, Failure]
    """Shards that could not be computed, by name; empty if the run is complete."""
    computed: int
    """Shards computed by this submission."""
    seconds: dict[str, float]
    """Wall-clock seconds of each stage."""


def submit(
    job: Job,
    *,
    out: Folder | Path,
    executor: Executor,
    gpus: int | None = None,
    threads: int = Grant.MOST_CPUS,
    progress: Progress | None = None,
    clock: Clock | None = None,
    seed: int = 0,
    argv: Sequence[str] = (),
) -> Result:
    """Compute whatever of a job is not there yet.

    Args:
        job: the job, fitted to its model.
        out: folder of all runs.
        executor: where shards run; closed by the caller.
        gpus: GPUs to use; 0 = CPUs, None = all the cluster has.
        threads: threads that one shard keeps busy; cores beyond that run more workers.
        progress: told of every shard that ends.
        clock: the clock of the whole submission, for the manifest.
        seed: seed of the request, for the manifest; a job that draws has it among its settings.
        argv: the command, for the manifest.

    Returns:
        The run, complete unless shards failed.

    Raises:
        ValueError: if the request cannot be met (more GPUs than there are, a folder that cannot be written, another
            driver at work); nothing was computed.
        OSError: if the driver could not write (a full disk, a store that went away); what was committed stays.
    """
    progress = progress or Progress(quiet=True)
    clock = clock or Clock()
    request = identify(job.name, job.settings(), job.model.identity)
    place = open_folder(out)
    run = Run(place / f"{job.name}-{request['run_id']}")
    with _writable(place):
        place.require_reachable()
        if _is_finished(run, job, request):
            return Result(run, {}, 0, clock.seconds)
    grant = Grant.divide(executor.capacity(), gpus, most_cpus=threads)

    with ExitStack() as stack:
        with _writable(place):
            stack.enter_context(run.driving())
        if _is_finished(run, job, request):  # by a driver that held the run until now
            return Result(run, {}, 0, clock.seconds)
        job.prepare(grant.cpus, clock)
        run.reopen()
        shards = run.plan_or_load(request, job.plan(), job.covers)
        missing = run.missing(shards)
        clock.lap("looking")
        computed = 0
        failures: dict[str, Failure] = {}
        if missing:
            executor.start(grant)
            clock.lap(f"starting {executor.name}")
            computed, failures = _compute(job, run, shards, missing, executor, grant, progress, clock)
        if failures:
            return Result(run, failures, computed, clock.seconds)
        tables = job.reduce(run)
        clock.lap("reducing")
        devices = sorted({receipt.measures["device"] for receipt in run.receipts().values()})
        facts = {
            "model": job.model.name,
            "executor": executor.name,
            "workers": grant.workers,
            "devices": devices,
            "tf32": False,
        }
        origin = provenance(argv, **facts, seed=seed, seconds=clock.seconds)
        run.commit(request, shards, tables, provenance=origin)
        clock.lap("committing")
    return Result(run, {}, computed, clock.seconds)


def _compute(
    job: Job,
    run: Run,
    shards: Sequence[Shard],
    missing: Sequence[Shard],
    executor: Executor,
    grant: Grant,
    progress: Progress,
    clock: Clock,
) -> tuple[int, dict[str, Failure]]:
    """Compute the missing shards; how many were computed, and why the others were not."""
    failures: dict[str, Failure] = {}

    def fail(shard: Shard, failure: Failure) -> None:
        failures[shard.name] = failure
        run.note_failure(shard.name, failure.trace or str(failure))
        progress.failed(shard, failure)

    left = missing
    computed = 0
    rest = Failure("Missing", "what it stands on failed, or its parts were changed", "")
    lost = False
    for _ in range(_ROUNDS):
        if not missing or failures or lost:
            break
        progress.begin(shards, missing, job.scores_in)
        begun: set[str] = set()
        try:
            for stage in job.stages(missing):
                tasks = iter(job.tasks(stage, run, executor, grant.cpus, clock))
                first = next(tasks, None)  # takes as long as the token states, which the pace leaves out
                progress.computing()
                for outcome in executor.map(job.run_shard, chain([first] if first else [], tasks)):
                    if outcome.value is None:
                        fail(outcome.item, outcome.failure or Failure("Lost", "it has no outcome", ""))
                    else:
                        run.record(outcome.value)
                        begun.add(outcome.item.group)
                        computed += 1
                        progress.committed(outcome.item)
                progress.waiting()
                clock.lap("computing and writing")
        except ClusterLostError as error:
            lost = True
            rest = Failure("ClusterLost", str(error), str(error))
        except ValueError as error:
            # The request was checked before this point: a ValueError from here is our own fault, no bad request.
            raise RuntimeError(f"{job.name} failed while it was computed") from error
        finally:
            progress.end()
        left = missing = run.missing(shards)
        if not failures:
            # Where nothing of a group could be begun, what is there of it was made from other bits than those here.
            stuck = {shard.group for shard in left} - begun
            missing = [shard for shard in shards if shard in left or shard.group in stuck]
    for shard in left:
        if shard.name not in failures:
            fail(shard, rest)
    return computed, failures


def _is_finished(run: Run, job: Job, request: Mapping[str, Any]) -> bool:
    """Whether a run's manifest is that of the request, and every file the one it lists, and no other."""
    try:
        manifest = run.manifest()
    except DamagedRunError:
        return False
    if manifest is None or manifest["run_id"] != request["run_id"]:
        return False
    if not job.covers([Shard.from_json(shard) for shard in manifest["shards"]]):
        return False
    known = {part.path for part in manifest["parts"]}
    return not run.strangers(known) and not faults(run.folder, manifest["parts"], hashed=not run.folder.sizes_suffice)


@contextmanager
def _writable(out: Folder) -> Iterator[None]:
    """Turn a folder that cannot be used into a request that cannot be met."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ValueError(unusable(out, error)) from error
