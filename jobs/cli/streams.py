"""Standard streams whose reader may leave, as `head` does: what is printed goes nowhere, and the command goes on."""

from __future__ import annotations

import io
import os
import sys
from typing import Any


class _Tolerant(io.RawIOBase):
    """Writes to a descriptor as long as somebody reads it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, content: Any) -> int:
        try:
            return os.write(self._descriptor, content)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._descriptor)
            os.close(nowhere)
            return len(content)


def tolerate_leaving_readers() -> None:
    """Let a reader of standard output or error leave without an effect on the command or its exit code.

    A token or a path may hold what the terminal cannot show; it is written as an escape.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.flush()
            lines = stream.line_buffering or name == "stderr"
            raw = io.BufferedWriter(_Tolerant(stream.fileno()))
            setattr(sys, name, io.TextIOWrapper(raw, stream.encoding, errors="backslashreplace", line_buffering=lines))
