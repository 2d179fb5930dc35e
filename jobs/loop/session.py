"""One use of the command line or of the library: where runs lie, what they run on, and what is printed at the end."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Console

import qkatlas
from qkatlas.cluster.executor import Grant
from qkatlas.jobs.loop.clock import Clock
from qkatlas.jobs.loop.progress import Progress
from qkatlas.jobs.loop.service import submit
from qkatlas.jobs.loop.terminal import harmless
from qkatlas.outputs.places.local_folder import LocalFolder
from qkatlas.outputs.places.open import open_folder

if TYPE_CHECKING:
    from qkatlas.cluster.executor import Executor
    from qkatlas.jobs.loop.job import Job
    from qkatlas.jobs.loop.request import Request
    from qkatlas.jobs.loop.result import Result


class Session:
    """Submits jobs as a request says.

    Args:
        request: the options that jobs share.
        loaded: a model that the caller holds in memory, in place of the one that the request names.
        argv: the command, for the manifest; None = that of this process.

    Attributes:
        request: the same.
        loaded: the same.
        submit: the loop, with all that the request says of it.

    Raises:
        ValueError: if it names something unsupported.
    """

    def __init__(self, request: Request, *, loaded: Any = None, argv: Sequence[str] | None = None) -> None:
        if request.address is not None and "://" in request.address:
            raise ValueError(
                f"--address {request.address} is no cluster; give auto, host:port or the dashboard's http://host:8265"
            )
        self.request = request
        self.loaded = loaded
        self._console = Console(highlight=False, soft_wrap=False)
        self._progress = Progress(quiet=request.quiet)
        self._executor = self._make_executor()
        self.submit = partial(
            submit,
            out=open_folder(request.out),
            executor=self._executor,
            gpus=request.gpus,
            progress=self._progress,
            clock=Clock(),
            seed=request.seed,
            argv=sys.argv if argv is None else argv,  # noqa: TID251 - recorded in the manifest, not read
        )

    def __enter__(self) -> Session:
        """Check at once, before anything is loaded, that there are the GPUs asked for.

        Raises:
            ValueError: if there are not, or no cluster answers.
        """
        with ExitStack() as stack:
            stack.enter_context(self._executor)
            if self.request.wait is not None:
                from qkatlas.cluster.ray_cluster import RayExecutor

                assert isinstance(self._executor, RayExecutor), "--wait was refused without --address"
                self._executor.grow(self.request.gpus, self.request.wait, self.say)
            if self.request.gpus or self.request.address is not None:
                Grant.divide(self._executor.capacity(), self.request.gpus)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.close()

    def say(self, line: str) -> None:
        """Show a line while a job runs."""
        self._progress.say(line)

    def report(self, result: Result, job: Job[Any]) -> None:
        """Say how a job ended: its answer, where the data lies, how long it took, and what to try next.

        Args:
            result: how the job ended.
            job: the job.

        Raises:
            IncompleteError: if some of its shards could not be computed.
        """
        run = result.require_complete()
        if not self.request.quiet:
            self._console.print(job.answer(run))
            self._report_done(result, job)

    def _report_done(self, result: Result, job: Job[Any]) -> None:
        folder = result.run.folder
        manifest = result.run.manifest()
        assert manifest is not None, "a result without failures is committed"
        size = manifest.bytes / 1e6
        self._line("")
        if result.computed:
            stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in result.seconds.items() if seconds >= 0.05)
            self._line(f"{result.computed} shards in {sum(result.seconds.values()):.1f} s ({stages})")
        else:
            self._line("finished before; nothing had to be computed")
        written = {part.path.partition("/")[0].removesuffix(".parquet") for part in manifest.parts}
        tables = {table.name: table for table in job.tables}
        shown = [tables[name].glob for name in job.shows if tables[name].folder in written]
        self._line(f"{size:.1f} MB in {folder}: {', '.join(shown)}")
        table, look = job.look
        imported = "pandas" if isinstance(folder, LocalFolder) else "pandas, pyarrow.fs"
        program = f"import {imported}; print(pandas.read_parquet({folder.pandas_arguments(table)}){look})"
        self._line(f"next: submit verify {shlex.quote(str(folder))}")
        self._line(f"      python -c {shlex.quote(program)}")

    def _line(self, text: str) -> None:
        """Print a plain line, unwrapped; a folder may be called anything."""
        self._console.print(harmless(text, one_line=True), markup=False, soft_wrap=True)

    def _make_executor(self) -> Executor:
        if self.request.in_process:
            from qkatlas.cluster.in_process import InProcessExecutor

            return InProcessExecutor()
        from qkatlas.cluster.ray_cluster import RayExecutor

        address = self.request.address
        if address is None:
            return RayExecutor()
        from qkatlas.outputs.runs.provenance import is_copy

        return RayExecutor(address, code=None if is_copy() else qkatlas, patience=self.request.wait or 0.0)
