"""The processes of an embedded cluster: known by a mark in their environment, so that none outlives the command."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from qkatlas.cluster.guardian import SAID

_MARK = "QKATLAS_CLUSTER"

_PATIENCE = 10.0
"""Seconds that the end of a cluster's processes may take."""

_guardian: subprocess.Popen[bytes] | None = None


def mark() -> None:
    """Mark every process that is started from now on as one of this command's own cluster, which is guarded."""
    global _guardian
    if _guardian is not None:
        return
    value = f"{_MARK}={secrets.token_hex(16)}"
    program = Path(__file__).with_name("guardian.py")
    _guardian = subprocess.Popen(
        [sys.executable, "-I", "-S", str(program), value],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    os.environ[_MARK] = value.removeprefix(f"{_MARK}=")


def end_marked() -> None:
    """End what is left of the cluster: Ray's own ending can be interrupted, or hang."""
    global _guardian
    if _guardian is None:
        return
    guardian, _guardian = _guardian, None
    os.environ.pop(_MARK, None)
    with suppress(BrokenPipeError, subprocess.TimeoutExpired):
        guardian.communicate(SAID, timeout=_PATIENCE)


def leave(code: int) -> NoReturn:
    """End this process at once, with what it has to say said, and then what is left of its cluster.

    Ray ends a driver whose cluster is gone with an exit code of its own, so that the cluster goes after the driver.

    Args:
        code: the exit code.
    """
    if _guardian is not None and _guardian.stdin is not None:
        with suppress(OSError):
            os.write(_guardian.stdin.fileno(), SAID)
    os._exit(code)


def ended_children() -> dict[int, int]:
    """Processes that this one started and that have ended, not asked about since, with what ended them.

    Returns:
        By process id the number of the signal, 0 for one that ended by itself; none where there is no /proc.
    """
    found = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # that one has just gone
            fields = file.read_bytes().rpartition(b")")[2].split()  # the name before may hold spaces
            if fields[0] == b"Z" and int(fields[1]) == os.getpid():
                found[int(file.parent.name)] = int(fields[49]) & 0x7F
    return found
