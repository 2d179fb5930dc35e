"""One use of the command line: where runs lie, what they run on, and what is printed at the end."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from rich.console import Console

import qkatlas
from qkatlas.jobs.loop.clock import Clock
from qkatlas.jobs.loop.progress import Progress
from qkatlas.outputs.places.folder import open_folder
from qkatlas.outputs.places.local_folder import LocalFolder

if TYPE_CHECKING:
    from rich.console import RenderableType

    from qkatlas.cluster.executor import Executor
    from qkatlas.jobs.loop.service import Job, Result


class Session:
    """Submits a job with the command line's common options.

    Args:
        out: `--out`.
        gpus: `--gpus`.
        address: `--address`.
        in_process: run without Ray.
        seed: `--seed`, kept in the manifest.
        quiet: print nothing but errors.
        wait: `--wait`, seconds that a joined cluster may take to grow.

    Raises:
        ValueError: if the options contradict each other or name something unsupported.
    """

    def __init__(
        self,
        *,
        out: str,
        gpus: int | None,
        address: str | None,
        in_process: bool,
        seed: int,
        quiet: bool,
        wait: int | None = None,
    ) -> None:
        if address is not None and "://" in address:
            raise ValueError(
                f"--address {address} is no cluster; give auto, host:port or the dashboard's http://host:8265"
            )
        if wait is not None and address is None:
            raise ValueError(f"--wait {wait} needs --address; only a cluster that is joined can grow")
        self._out = open_folder(out)
        self._gpus = gpus
        self._address = address
        self._in_process = in_process
        self._seed = seed
        self._quiet = quiet
        self._wait = wait
        self._console = Console(highlight=False, soft_wrap=False)
        self.progress = Progress(quiet=quiet)
        self._clock = Clock()
        self._executor = self._make_executor()

    def __enter__(self) -> Session:
        """Check at once, before anything is loaded, that there are the GPUs asked for.

        Raises:
            ValueError: if there are not, or no cluster answers.
        """
        with ExitStack() as stack:
            stack.enter_context(self._executor)
            if self._wait is not None:
                from qkatlas.cluster.ray_cluster import RayExecutor

                assert isinstance(self._executor, RayExecutor), "--wait was refused without --address"
                self._executor.grow(self._gpus, self._wait, self.progress.say)
            if self._gpus or self._address is not None:
                from qkatlas.cluster.executor import Grant

                Grant.divide(self._executor.capacity(), self._gpus)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.close()

    def submit(self, job: Job, *, opened: str = "opening the model", threads: int | None = None) -> Result:
        """Run a job through the loop.

        Args:
            job: the job.
            opened: what was done before it could be submitted, for the timings.
            threads: threads that one of its shards keeps busy; the loop's default if None.
        """
        from qkatlas.cluster.executor import Grant
        from qkatlas.jobs.loop.service import submit

        self._clock.lap(opened)
        result = submit(
            job,
            out=self._out,
            executor=self._executor,
            gpus=self._gpus,
            threads=threads or Grant.MOST_CPUS,
            progress=self.progress,
            clock=self._clock,
            seed=self._seed,
            argv=sys.argv,  # noqa: TID251 - recorded in the manifest, not read
        )
        self._clock = Clock()  # a next job of the session has seconds of its own
        return result

    def report(
        self, result: Result, answer: Callable[[], RenderableType], tables: Sequence[str], query: tuple[str, str]
    ) -> int:
        """Say how the job ended: the answer, where the data lies, how long it took, and what to try next.

        Args:
            result: how the job ended.
            answer: makes what a person wants to see from a finished run.
            tables: its tables.
            query: a table to look at, and what pandas may do with it, such as `.describe()`.

        Returns:
            The exit code: 0, or 1 if shards failed.
        """
        if result.failures:
            print(
                f"submit: error: {len(result.failures)} shards failed, tracebacks in {result.run.failure_log}; the "
                "others are kept, submit the same request again to compute only these",
                file=sys.stderr,
            )
            return 1
        if not self._quiet:
            self._console.print(answer())
            self._report_done(result, tables, query)
        return 0

    def _report_done(self, result: Result, tables: Sequence[str], query: tuple[str, str]) -> None:
        folder = result.run.folder
        manifest = result.run.manifest()
        assert manifest is not None, "a result without failures is committed"
        size = sum(part.bytes for part in manifest["parts"]) / 1e6
        if result.computed:
            stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in result.seconds.items() if seconds >= 0.05)
            self._line(f"\n{result.computed} shards in {sum(result.seconds.values()):.1f} s ({stages})")
        else:
            self._line("\nfinished before; nothing had to be computed")
        self._line(f"{size:.1f} MB in {folder}: {', '.join(tables)}")
        table, look = query
        imported = "pandas" if isinstance(folder, LocalFolder) else "pandas, pyarrow.fs"
        program = f"import {imported}; print(pandas.read_parquet({folder.pandas_arguments(table)}){look})"
        self._line(f"next: submit verify {shlex.quote(str(folder))}")
        self._line(f"      python -c {shlex.quote(program)}")

    def _line(self, text: str) -> None:
        """Print a plain line, unwrapped."""
        self._console.print(text, markup=False, soft_wrap=True)

    def _make_executor(self) -> Executor:
        if self._in_process:
            from qkatlas.cluster.in_process import InProcessExecutor

            return InProcessExecutor()
        from qkatlas.cluster.ray_cluster import RayExecutor

        if self._address is None:
            return RayExecutor()
        from qkatlas.outputs.runs.provenance import is_copy

        return RayExecutor(self._address, code=None if is_copy() else qkatlas, patience=self._wait or 0.0)
