"""What a person sees while a job runs: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from qkatlas.cluster.executor import Failure
from qkatlas.jobs.loop.log import RunLog
from qkatlas.jobs.loop.terminal import harmless
from qkatlas.outputs.runs.measures import Measures
from qkatlas.outputs.runs.shard import Shard

_PLAIN_SECONDS, _LIVE_SECONDS = 5.0, 0.1
"""Least time between two plain lines, and between two pictures of the live one, which cost more than a small shard."""

_LISTED_FAILURES = 20
"""Failed shards that are named; more are only counted, and all are in the run's failure log."""


class Progress:
    """Shards done, scores a second and the time left; drawn by the driver only, on standard error.

    Args:
        quiet: show nothing but failures.
        console: where to draw; standard error if None.
    """

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self._quiet = quiet
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._live = self._console.is_terminal and not quiet
        self._pause = _LIVE_SECONDS if self._live else _PLAIN_SECONDS
        self._total = self._done = self._kept = 0
        self._scores_total = self._scores_done = 0
        self._failed = 0
        self._scores_in: Callable[[Shard], int] = lambda shard: 0
        self._elapsed = self._since = 0.0
        self._shown = float("-inf")
        self._log: RunLog | None = None

    @contextmanager
    def logging(self, write: Callable[[str], None], *, verbose: bool) -> Iterator[RunLog]:
        """Keep what happens in a log while the block lasts, each shard and each line that is said among it.

        Args:
            write: adds lines to it.
            verbose: whether lines of the log are shown as well, unless quiet.
        """
        before, self._log = self._log, RunLog(write, self._print if verbose and not self._quiet else None)
        try:
            yield self._log
        except BaseException as error:
            self._log.note(f"ended by {type(error).__name__}: {error}", shown=False)
            raise
        finally:
            self._log.write()
            self._log = before

    def begin(self, shards: Sequence[Shard], missing: Sequence[Shard], scores_in: Callable[[Shard], int]) -> None:
        """A round of computing starts.

        Args:
            shards: the whole plan.
            missing: what will be computed now.
            scores_in: scores of a shard.
        """
        self._total, self._kept, self._done = len(shards), len(shards) - len(missing), 0
        self._scores_in, self._scores_done = scores_in, 0
        self._scores_total = sum(map(scores_in, missing))
        self._elapsed = 0.0
        self._shown = float("-inf")
        if self._kept:
            self.say(f"{self._kept} of {self._total} shards are there already; computing the other {len(missing)}")

    def again(self, shard: Shard) -> None:
        """A shard that was there will be computed anew."""
        self._kept -= 1
        self._scores_total += self._scores_in(shard)

    def computing(self) -> None:
        """Workers are at it from now on: the pace counts this time alone."""
        self._since = time.monotonic()

    def waiting(self) -> None:
        """Workers are done until the next `computing`."""
        self._elapsed += time.monotonic() - self._since

    def committed(self, shard: Shard, measures: Measures | None = None) -> None:
        """A shard was committed; what it cost, where that is known."""
        if self._log is not None:
            cost = measures or Measures()
            on = f" on {cost.device}, {cost.seconds} s, {cost.peak_memory_mb} MiB" if cost.seconds is not None else ""
            self._log.note(f"shard {shard.name} committed{on}")
        self._done += 1
        self._scores_done += self._scores_in(shard)
        self._draw(last=self._kept + self._done == self._total)

    def failed(self, shard: Shard, failure: Failure) -> None:
        """A shard could not be computed; said even when quiet."""
        self._failed += 1
        if self._log is not None:
            self._log.note(f"shard {shard.name} was not computed: {failure}", shown=False)
        if self._failed <= _LISTED_FAILURES:
            self._clear()
            self._console.print(Text(f"submit: shard {shard.name} was not computed: {failure}"))

    def end(self) -> None:
        """All rounds are over."""
        self._clear()

    def say(self, line: str) -> None:
        """Show a line of its own."""
        if self._log is not None:
            self._log.note(line, shown=False)
        if not self._quiet:
            self._print(harmless(line, one_line=True))

    def _print(self, line: str) -> None:
        self._clear()
        self._console.print(Text(line))

    def line(self) -> str:
        """Shards done, scores a second if the job computes any, and the time left at that pace."""
        elapsed = max(self._elapsed + time.monotonic() - self._since, 1e-6)
        done, total, rate = self._scores_done, self._scores_total, f"{_count(self._scores_done / elapsed)} scores/s, "
        if not total:  # the job computes no scores: its shards take about as long as each other
            done, total, rate = self._done, self._total - self._kept, ""
        left = elapsed * (total - done) / done if done else float("inf")
        return (
            f"{self._kept + self._done}/{self._total} shards, {rate}"
            f"{_duration(elapsed)} elapsed, {_duration(left)} left"
        )

    def _draw(self, *, last: bool) -> None:
        if self._quiet or not (last or time.monotonic() - self._shown > self._pause):
            return
        self._shown = time.monotonic()
        self._clear()
        self._console.print(Text(self.line()), end="" if self._live else "\n")

    def _clear(self) -> None:
        if self._live:
            self._console.file.write("\r\x1b[2K")
            self._console.file.flush()


def _count(number: float) -> str:
    for size, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.2f} {suffix}"
    return f"{number:.0f}"


def _duration(seconds: float) -> str:
    if seconds == float("inf"):
        return "unknown time"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d} h" if minutes >= 60 else f"{minutes}:{seconds:02d} min"
