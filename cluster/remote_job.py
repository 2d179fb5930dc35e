"""A job that a cluster runs for another machine: handed over, followed by its log, and ended with its exit status."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

PATIENCE = 60.0
"""Seconds without an answer after which a dashboard counts as lost."""

COMMAND = "qkatlas"
"""Key of a job's metadata that holds the command our user ran."""

_PAUSE = 1.0
"""Seconds between two attempts, or two questions whether a job has ended."""


class UnknownJobError(ValueError):
    """A cluster has no such job."""


class LostDashboardError(ValueError):
    """A dashboard that answered before does so no more, or answers with an error of its own."""


@dataclass(frozen=True, kw_only=True)
class JobState:
    """Where a job stands."""

    job_id: str
    status: str
    """Ray's word: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    entrypoint: str
    """What the cluster's shell runs."""
    command: str | None
    """What our user ran; None for jobs that are not ours."""
    started: float | None
    """Seconds since 1970, by the cluster's clock."""
    ended: float | None
    exit_code: int | None
    """Of the job's driver, if it ended by itself."""
    message: str
    """Ray's explanation of a failure."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")


class JobsApi(Protocol):
    """What of a cluster's Jobs API it takes to follow a job. Every method may raise LostDashboardError."""

    def state(self, job_id: str) -> JobState:
        """Where a job stands; UnknownJobError if there is none."""
        ...

    def log(self, job_id: str) -> str:
        """All of a job's log."""
        ...

    def tail(self, job_id: str, pause: float) -> Generator[str]:
        """A job's log from its beginning, as it comes; an empty text after a pause without any."""
        ...


class _Log:
    """What was shown of a log that may have to be read from its beginning again.

    Args:
        state: the job; Ray's own lines above what the job writes are left out.
        show: is given each new piece of text.
    """

    def __init__(self, state: JobState, show: Callable[[str], None]) -> None:
        self._show = show
        self._opening = opening_line(state)
        self._held: str | None = ""
        self._known = self._position = 0

    def reopen(self) -> None:
        """It is read from its beginning again."""
        self._position = 0

    def take(self, text: str) -> None:
        """Show what is new in the next piece of the log."""
        new = text[max(0, self._known - self._position) :]
        self._position += len(text)
        self._known = max(self._known, self._position)
        if self._held is not None:
            self._held += new
            _, found, new = self._held.partition(self._opening)
            if not found:
                return
            self._held = None
        if new:
            self._show(new)

    def end(self) -> None:
        """The log is complete: show what was held back if the job itself never wrote a line."""
        if self._held:
            self._show(self._held)


def opening_line(state: JobState) -> str:
    """The line that Ray writes to a job's log before the job does."""
    return f"Running entrypoint for job {state.job_id}: {state.entrypoint}\n"


def follow(api: JobsApi, job_id: str, show: Callable[[str], None], *, patience: float = PATIENCE) -> JobState:
    """Show a job's log as it comes, until the job ends.

    Args:
        api: the cluster.
        job_id: the job.
        show: is given each new piece of text, each once, also where the connection breaks and comes back.
        patience: seconds without an answer to bear.

    Returns:
        How the job ended.

    Raises:
        UnknownJobError: if there is no such job.
        LostDashboardError: if the cluster does not answer any more.
    """
    log = _Log(api.state(job_id), show)
    answered = time.monotonic()
    while True:
        try:
            with closing(api.tail(job_id, _PAUSE)) as pieces:
                for text in pieces:
                    log.take(text)
                    # Ray ends the stream some seconds after the job; asking is faster.
                    if not text and api.state(job_id).has_ended:
                        break
                    answered = time.monotonic()
            log.reopen()
            state = api.state(job_id)
            answered = time.monotonic()
            if state.has_ended:
                log.take(api.log(job_id))
                log.end()
                return state
        except LostDashboardError:
            log.reopen()
            if time.monotonic() - answered > patience:
                raise
        time.sleep(_PAUSE)
