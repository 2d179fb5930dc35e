"""Standard streams whose reader may leave, as `head` does: what is printed goes nowhere, and the command goes on."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any

_LEFT = (errno.EPIPE, errno.ECONNRESET)
"""What a descriptor says whose reader has gone; a terminal says EIO."""


class _Tolerant(io.RawIOBase):
    """Writes to a descriptor as long as somebody reads it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._terminal = os.isatty(descriptor)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, content: Any) -> int:
        try:
            return os.write(self._descriptor, content)
        except OSError as error:
            if error.errno not in _LEFT and not (self._terminal and error.errno == errno.EIO):
                raise
            _lead_nowhere(self._descriptor)
            return len(content)


def tolerate_leaving_readers() -> None:
    """Let a reader of standard output or error leave, or not be there, without an effect on the command or its code.

    A token or a path may hold what the terminal cannot show; it is written as an escape.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # closed before the command began: the next file that is opened would get its number
            _lead_nowhere(descriptor)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if isinstance(getattr(getattr(stream, "buffer", None), "raw", None), _Tolerant):
            continue
        if isinstance(stream, io.TextIOWrapper):
            stream.flush()
            encoding, lines = stream.encoding, stream.line_buffering or name == "stderr"
            descriptor = stream.fileno()
        elif stream is None:
            encoding, lines = "utf-8", False
        else:
            continue  # a program's own
        raw = io.BufferedWriter(_Tolerant(descriptor))
        setattr(sys, name, io.TextIOWrapper(raw, encoding, errors="backslashreplace", line_buffering=lines))


def flush() -> str:
    """Write what is still to be written.

    Returns:
        Why that cannot be done, as on a full disk; empty if it was.
    """
    reason = ""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            reason = error.strerror or str(error)
    return reason


def _lead_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
