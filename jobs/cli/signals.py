"""How a command answers signals: it ends in order, with one line, and leaves no process behind."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType

from qkatlas.cluster.processes import leave
from qkatlas.jobs.cli.ending import SIGNALLED, say

_ENDING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGVTALRM")
"""Signals that end a program, and that it can answer."""

_PATIENCE = 4.0
"""Seconds that ending in order may take."""


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
    for name in _ENDING:
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) != signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(getattr(signal, name), _interrupt)


def interrupted(error: BaseException, message: str = "") -> int:
    """Say that a signal ended the command.

    Args:
        error: what its answer raised; an interrupt where nobody answered.
        message: what to say; that the same command goes on, if empty.

    Returns:
        The exit code, 128 and the signal's number.
    """
    number = error.number if isinstance(error, Interrupted) else int(signal.SIGINT)
    message = message or "interrupted; what was committed is kept, and the same command goes on from there"
    return say(message, SIGNALLED + number)


def _interrupt(number: int, frame: FrameType | None) -> None:
    for name in _ENDING:  # a second signal would interrupt the ending
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # Libraries may swallow the exception, or wait where it cannot reach: then it is ended from another thread.
    last = threading.Timer(_PATIENCE, _end_now, (number,))
    last.daemon = True
    last.start()
    raise Interrupted(number)


def _end_now(number: int) -> None:
    code = interrupted(Interrupted(number))
    sys.stderr.flush()
    leave(code)
