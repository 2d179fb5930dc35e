"""What a driver did on a run, line by line with the time, beside the run's tables."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from qkatlas.jobs.loop.terminal import harmless

_PAUSE_SECONDS = 5.0
"""Most that a driver which is killed leaves unwritten: an object store takes as long for one line as for a hundred."""


class RunLog:
    """The log of one submission; what cannot be written is left out, for no result depends on it.

    Args:
        write: adds lines to the run's log; those of earlier submissions stay.
        show: given every line as well, if any.
    """

    def __init__(self, write: Callable[[str], None], show: Callable[[str], None] | None = None) -> None:
        self._write = write
        self._show = show
        self._lines: list[str] = []
        self._written = time.monotonic()

    def note(self, text: str, *, shown: bool = True) -> None:
        """Add a line.

        Args:
            text: what happened.
            shown: whether it is shown, too, where lines are.
        """
        line = f"{datetime.now(UTC).isoformat(timespec='seconds')} {harmless(text, one_line=True)}"
        self._lines.append(line)
        if shown and self._show is not None:
            self._show(line)
        if time.monotonic() - self._written > _PAUSE_SECONDS:
            self.write()

    def write(self) -> None:
        """Write what is not yet written."""
        lines, self._lines = self._lines, []
        self._written = time.monotonic()
        if lines:
            with suppress(OSError):  # a full disk, a store or a run that went away: what else needs it says so
                self._write("\n".join(lines))
