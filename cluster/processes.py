"""The processes of an embedded cluster: known by a mark in their environment, so that none outlives the command."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

_MARK = "QKATLAS_CLUSTER"
_marks: set[str] = set()


def mark() -> None:
    """Mark every process that is started from now on as one of a cluster of this command's own."""
    os.environ[_MARK] = secrets.token_hex(16)
    _marks.add(os.environ[_MARK])


def end_marked() -> None:
    """End what is left of the clusters that this command started: Ray's own ending can be interrupted, or hang.

    Where there is no /proc, it is left to Ray: its processes follow the one that started them.
    """
    for process in _others():
        try:
            environment = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
        except OSError:  # it has ended, or is another user's
            continue
        if any(f"{_MARK}={value}".encode() in environment for value in _marks):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def leave(code: int) -> NoReturn:
    """End this process at once, and then what is left of its clusters.

    Ray ends a driver whose cluster is gone with an exit code of its own, so that the cluster must go after the driver.

    Args:
        code: the exit code.
    """
    if _marks and os.fork() == 0:
        os.setsid()
        end_marked()
        os._exit(0)
    os._exit(code)


def _others() -> Iterator[int]:
    folder = Path("/proc")
    names = os.listdir(folder) if folder.is_dir() and _marks else []
    yield from (int(name) for name in names if name.isdecimal() and int(name) != os.getpid())
