"""One driver a run: an advisory lock that ends with the process that holds it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PATIENCE_SECONDS = 1.0
"""A reader that asks `is_held` holds the lock for an instant; a driver outwaits it."""


class RunIsBusyError(ValueError):
    """Another driver computes this run."""


@contextmanager
def exclusive(file: Path) -> Iterator[None]:
    """Hold the lock of a run.

    The kernel releases it when the process ends, however it ends, so that no stale lock can block a resume.

    Args:
        file: the lock file; made if missing, never removed.

    Raises:
        RunIsBusyError: if another process holds it, naming that process.
        OSError: if the file cannot be made.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not _try_lock(descriptor, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise RunIsBusyError(
                    f"run {file.parent.parent.name} is being computed by {_holder(descriptor)}; "
                    "wait for it, or stop it and submit again"
                )
            time.sleep(0.05)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def is_held(file: Path) -> bool:
    """Whether a driver holds the lock now."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)  # it may be anything, even a pipe
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(descriptor: int) -> str:
    try:
        entry = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {entry['pid']} on {entry['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
