"""How a command answers signals: it ends in order, with one line, and leaves no process behind."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING

from qkatlas.cluster.processes import leave

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_ENDING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGVTALRM")
"""Signals that end a program, and that it can answer."""

_PATIENCE = 3.5
"""Seconds that ending in order may take."""

_KEPT = "interrupted; what was committed is kept, and the same command goes on from there"

_saying: threading.Lock | None = None
"""Of a command whose signals are answered; taken by whoever says its line, so that there is one."""

_arrived: int | None = None


class Interrupted(BaseException):
    """A signal that asks the command to end; no KeyboardInterrupt, which libraries answer in ways of their own.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def answer_signals() -> None:
    """Let signals end the command as an interrupt does: the executor is closed, and what was committed is kept."""
    global _saying
    if _saying is not None:
        return
    _saying = threading.Lock()
    answered = [getattr(signal, name) for name in _ENDING if hasattr(signal, name)]
    answered = [number for number in answered if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores SIGHUP
    # Python calls its handlers between two steps of the main thread, which may be in a long step of a library's.
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    threading.Thread(target=_end_in_time, args=(reading, frozenset(answered)), daemon=True).start()
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    sys.unraisablehook = _without_interrupts
    for number in answered:
        signal.signal(number, _interrupt)


def require_no_signal() -> None:
    """Raise `Interrupted` again if a signal has come: libraries hide it behind errors of their own, or swallow it."""
    if _arrived is not None:
        raise Interrupted(_arrived)


def interrupted(error: BaseException, message: str = _KEPT) -> int:
    """Say that a signal ended the command.

    Args:
        error: what its answer raised; an interrupt where nobody answered.
        message: what to say.

    Returns:
        The exit code, 128 and the signal's number.
    """
    return _say(error.number if isinstance(error, Interrupted) else int(signal.SIGINT), message)


def _say(number: int, message: str) -> int:
    # Loaded here: signals are answered before anything large is loaded.
    from qkatlas.jobs.cli.ending import SIGNALLED, say

    if _saying is None or _saying.acquire(blocking=False):
        say(message, SIGNALLED + number)
    return SIGNALLED + number


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _arrived
    _arrived = number
    for name in _ENDING:  # a second signal would interrupt the ending
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    raise Interrupted(number)


def _end_in_time(reading: int, answered: frozenset[int]) -> None:
    """End the command from another thread where it takes too long: libraries swallow exceptions, or wait on."""
    while (number := os.read(reading, 1)[0]) not in answered:
        pass
    time.sleep(_PATIENCE)
    saying = threading.Thread(target=_say, args=(number, _KEPT), daemon=True)
    saying.start()
    saying.join(0.5)  # standard error may be a pipe that is full
    leave(128 + number)


def _without_interrupts(unraisable: UnraisableHookArgs) -> None:
    """An interrupt in a destructor reaches nobody, and is no error to be shown: `_end_in_time` ends the command."""
    if not issubclass(unraisable.exc_type, Interrupted):
        sys.__unraisablehook__(unraisable)
