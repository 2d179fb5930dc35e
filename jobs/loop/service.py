"""The one loop that every job runs through: plan, find what is missing, compute it, commit."""

from __future__ import annotations

import errno
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import qkatlas
from qkatlas.cluster.executor import ClusterLostError, Executor, Failure, Grant
from qkatlas.jobs.loop.clock import Clock
from qkatlas.jobs.loop.digest import digest_of
from qkatlas.jobs.loop.job import Job
from qkatlas.jobs.loop.progress import Progress
from qkatlas.jobs.loop.result import Result
from qkatlas.jobs.loop.step import AnyStep, Context, stages
from qkatlas.jobs.loop.work import Task, compute_shard
from qkatlas.outputs.places.folder import Folder
from qkatlas.outputs.places.open import open_folder
from qkatlas.outputs.runs.identity import Request, identify
from qkatlas.outputs.runs.layout import is_older, older
from qkatlas.outputs.runs.provenance import provenance
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.shard import Shard
from qkatlas.outputs.runs.soundness import is_finished
from qkatlas.outputs.runs.stamp import stamp_of, stamped
from qkatlas.outputs.runs.store import unusable

_ROUNDS = 3
"""Shards go stale when the inputs have other bits here than on the machine that began the run; a second round computes
those again. A third would mean that the inputs change by themselves."""

_COMPUTING = "computing and writing"


def submit(
    job: Job[Any],
    *,
    out: Folder | Path,
    executor: Executor,
    gpus: int | None = None,
    progress: Progress | None = None,
    clock: Clock | None = None,
    seed: int = 0,
    argv: Sequence[str] = (),
    opened: str = "",
    verbose: bool = False,
) -> Result:
    """Compute whatever of a job is not there yet.

    Args:
        job: the job, fitted to what it stands on.
        out: folder of all runs.
        executor: where shards run; closed by the caller.
        gpus: GPUs to use; 0 = CPUs, None = all the cluster has.
        progress: told of every shard that ends.
        clock: the clock of the whole submission, for the manifest; it begins anew at the end, for the next one.
        seed: seed of the request, for the manifest; a job that draws has it among its settings.
        argv: the command, for the manifest.
        opened: what was done since the clock began, for the timings; the job's own word if empty.
        verbose: whether the lines of the run's log are shown, too.

    Returns:
        The run, complete unless shards failed.

    Raises:
        ValueError: if the request cannot be met (more GPUs than there are, a folder that cannot be written, another
            driver at work); nothing was computed.
        OSError: if the driver could not write (a full disk, a store that went away); what was committed stays.
    """
    progress = progress or Progress(quiet=True)
    clock = clock or Clock()
    notes = list(job.notes())
    for line in notes:
        progress.say(line)
    clock.lap(opened or job.opened)
    request = identify(job.name, job.settings(), job.model.identity)
    place = open_folder(out)
    run = Run(place / f"{job.name}-{request.run_id}")
    computed = 0
    failures: Mapping[str, Failure] = {}
    with ExitStack() as stack:
        with _writable(place):
            place.require_reachable()
            finished = is_finished(run, request, job.covers)
        if not finished:
            grant = Grant.divide(executor.capacity(), gpus, most_cpus=job.threads)
            with _writable(place):
                stack.enter_context(run.driving())
            finished = is_finished(run, request, job.covers)  # by a driver that held the run until now
        if not finished:
            log = stack.enter_context(progress.logging(run.note, verbose=verbose))
            log.note(f"qkatlas {qkatlas.__version__}: {shlex.join(argv)}")
            log.note(f"{job.name} of {job.model.name}; workers: {grant.workers}, {executor.name}, {grant.device}")
            for line in notes:
                log.note(line, shown=False)
            context = Context(run=run, threads=grant.cpus, clock=clock)
            job.prepare(context)
            run.reopen()
            steps = _fitted(job.steps(), run.plan_or_load(request, job.plan(), job.covers))
            missing = run.missing([shard for step in steps for shard in step.shards])
            clock.lap("looking")
            if missing or any(_overtaken(step, run) for step in steps):
                executor.start(grant)
                clock.lap(f"starting {executor.name}")
                computing = _Computing(job, context, request, steps, executor, grant, progress)
                computed, failures = computing.compute(missing)
            if not failures:
                facts = {"model": job.model.name, "executor": executor.name, "workers": grant.workers, "seed": seed}
                _commit(job, context, request, steps, argv=argv, **facts)
            stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in clock.seconds.items())
            log.note(f"{computed} shards computed, {len(failures)} failed: {stages}")
    if not failures:
        job.finished(run)
    return Result(run, failures, computed, clock.restart())


def _commit(
    job: Job[Any],
    context: Context,
    request: Request,
    steps: Sequence[AnyStep],
    *,
    argv: Sequence[str],
    **facts: Any,
) -> None:
    """Write the tables of the whole run, and the manifest that ends it."""
    run, clock = context.run, context.clock
    paths = {table.name: table.path() for table in job.tables}
    stamp = stamp_of(request)
    tables = [
        run.write_table(paths[name], stamped(table, stamp, paths[name])) for name, table in job.reduce(run).items()
    ]
    clock.lap("reducing")
    devices = sorted({str(receipt.measures.device) for receipt in run.receipts().values()})
    origin = provenance(argv, devices=devices, seconds=clock.seconds, **facts)
    run.commit(request, [shard for step in steps for shard in step.shards], tables, provenance=origin)
    clock.lap("committing")


class _Computing:
    """The part of a submission that computes missing shards.

    Args:
        job: the job.
        context: what its steps are prepared with.
        request: what identifies the run.
        steps: its steps, over the shards of the run.
        executor: where they run.
        grant: what each worker may use.
        progress: told of every shard that ends.
    """

    def __init__(
        self,
        job: Job[Any],
        context: Context,
        request: Request,
        steps: Sequence[AnyStep],
        executor: Executor,
        grant: Grant,
        progress: Progress,
    ) -> None:
        self._job = job
        self._context = context
        self._run = context.run
        self._stamp = stamp_of(request)
        self._steps = steps
        self._shards = [shard for step in steps for shard in step.shards]
        self._paths = {table.name: table for table in job.tables if not table.whole}
        self._executor = executor
        self._grant = grant
        self._progress = progress
        self._computed: set[str] = set()
        self._failures: dict[str, Failure] = {}

    def compute(self, missing: Sequence[Shard]) -> tuple[int, dict[str, Failure]]:
        """Compute the missing shards; how many were computed, and why the others were not."""
        left = missing
        count = 0
        rest = Failure("Missing", "what it stands on failed, or its parts were changed", "")
        lost = False
        for number in range(_ROUNDS):
            if (number and not missing) or self._failures or lost:
                break
            self._progress.begin(self._shards, missing, self._job.scores_in)
            self._computed = set()
            try:
                names = {shard.name for shard in missing}
                for stage in stages(self._steps):
                    tasks = chain.from_iterable(self._tasks(step, names) for step in stage)
                    first = next(tasks, None)  # takes as long as the token states, which the pace leaves out
                    if first is None:
                        continue
                    self._progress.computing()
                    for outcome in self._executor.map(compute_shard, chain([first], tasks)):
                        if outcome.value is None:
                            self._fail(outcome.item, outcome.failure or Failure("Lost", "it has no outcome", ""))
                        else:
                            self._run.record(outcome.value)
                            self._computed.add(outcome.item.name)
                            self._progress.committed(outcome.item, outcome.value.measures)
                    self._progress.waiting()
                    self._context.clock.lap(_COMPUTING)
            except ClusterLostError as error:
                lost = True
                rest = Failure("ClusterLost", str(error), str(error))
            except ValueError as error:
                # The request was checked before this point: a ValueError from here is our own fault, no bad request.
                raise RuntimeError(f"{self._job.name} failed while it was computed") from error
            finally:
                self._progress.end()
            count += len(self._computed)
            left = missing = self._run.missing(self._shards)
            if not self._failures:
                # Where nothing of a group could be begun, what is there of it was made from other bits than those here.
                begun = {shard.group for shard in self._shards if shard.name in self._computed}
                stuck = {shard.group for shard in left} - begun
                names = {shard.name for shard in left}
                missing = [shard for shard in self._shards if shard.name in names or shard.group in stuck]
        for shard in left:
            if shard.name not in self._failures:
                self._fail(shard, rest)
        return count, self._failures

    def _tasks(self, step: AnyStep, missing: set[str]) -> Iterator[tuple[Shard, tuple[Any, ...]]]:
        """The shards of a step that have to be computed, with what a worker needs for them.

        Those are the missing ones, and those that were committed but stand on what has changed since.
        """
        todo = [shard for shard in step.shards if shard.name in missing]
        if not todo and not _overtaken(step, self._run):
            return
        self._context.clock.lap(_COMPUTING)
        shared = step.share(self._context)
        if shared is None:
            return
        inputs = digest_of(shared)
        if step.per_device:
            inputs = f"{inputs} {self._grant.device}"
        handle = self._executor.put(shared)
        del shared  # the driver needs its own copy no more
        self._context.clock.lap(step.preparing)
        receipts = self._run.receipts()
        begun_before = any(is_older(part.path) for receipt in receipts.values() for part in receipt.parts)
        for shard in step.shards:
            if shard.name not in missing:
                if shard.name not in receipts or receipts[shard.name].inputs == inputs:
                    continue
                self._progress.again(shard)
            paths = {name: table.path(shard) for name, table in self._paths.items() if table.belongs(shard)}
            if begun_before:
                paths = {name: older(path) for name, path in paths.items()}
            task = Task(
                compute=step.compute,
                folder=self._run.folder,
                inputs=inputs,
                paths=paths,
                stamp=self._stamp,
                each=step.each(shard),
            )
            yield shard, (task, handle)

    def _fail(self, shard: Shard, failure: Failure) -> None:
        self._failures[shard.name] = failure
        self._run.note_failure(shard.name, failure.trace or str(failure))
        self._progress.failed(shard, failure)


def _overtaken(step: AnyStep, run: Run) -> bool:
    """Whether something that a step stands on was committed after shards of its own, now or by an earlier driver.

    What is shared must then be made again: its digest says whether these shards still hold.
    """
    places = {name: place for place, name in enumerate(run.receipts())}
    own = [places[shard.name] for shard in step.shards if shard.name in places]
    below = [places[shard.name] for before in step.after for shard in before.shards if shard.name in places]
    return bool(own and below) and max(below) > min(own)


def _fitted(steps: Sequence[AnyStep], shards: Sequence[Shard]) -> Sequence[AnyStep]:
    """The steps over the shards of the run, which an earlier submission may have cut otherwise."""
    if [shard for step in steps for shard in step.shards] == list(shards):
        return steps  # whose shards know their kinds
    if len(steps) == 1:
        return [replace(steps[0], shards=shards)]
    fitted: list[AnyStep] = []
    for step in steps:
        after = [new for old, new in zip(steps, fitted, strict=False) if old in step.after]
        fitted.append(replace(step, shards=[shard for shard in shards if shard.kind == step.kind], after=after))
    return fitted


@contextmanager
def _writable(out: Folder) -> Iterator[None]:
    """Turn a folder that cannot be used into a request that cannot be met."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ValueError(unusable(out, error)) from error
