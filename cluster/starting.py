"""Starts a cluster of this command's own: bounded, once more where it was disturbed, and refused where it cannot be."""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from qkatlas.cluster.executor import ClusterLostError
from qkatlas.cluster.processes import end_marked, ended_children, mark
from qkatlas.cluster.watch import ask

_START_SECONDS = 120.0
"""How long a cluster of this command's own may take to start."""

_NATIVE_SECONDS = 10.0
"""How much longer where Ray's native code lets no other thread go on."""

_STORE_SHARE = 0.3
"""Part of the free memory that Ray maps as its store in every process, and in a raylet twice."""

_BESIDE_STORE, _BESIDE_STORE_TWICE = 3_000_000_000, 1_000_000_000
"""Bytes that a process with Python, and a raylet, map beside it."""


def start(begin: Callable[[], object]) -> None:
    """Start a cluster; once more where one of its processes ended meanwhile, as one that was killed.

    Args:
        begin: starts it.

    Raises:
        ValueError: if it cannot run here.
        ClusterLostError: if processes of it were killed, or it does not answer.
    """
    _require_address_space()
    was_killed = False
    for last in (False, True):
        mark()
        before = ended_children()
        try:
            with _bounded(), _silent():
                ask(begin, _START_SECONDS, stay=True)  # Linux ends its processes with the thread
            return
        except ClusterLostError as error:  # what a thread of Ray's waits for in vain, a second one would not get
            raise ClusterLostError(f"Ray did not start within {_START_SECONDS:g} s; try --in-process") from error
        except Exception as error:  # Ray raises a plain one for a node that does not come up
            ended = {process: number for process, number in ended_children().items() if process not in before}
            was_killed = was_killed or any(number in (signal.SIGKILL, signal.SIGTERM) for number in ended.values())
            end_marked()
            if last and was_killed:
                raise ClusterLostError("processes of Ray were killed while it started, twice") from error
            if last or not ended:
                raise ValueError(
                    f"Ray cannot start on this machine ({first_line(error).rstrip('.')}); give it memory, processes, "
                    "and a /tmp that can be written, or leave it out with --in-process"
                ) from error


def _require_address_space() -> None:
    """Check a limit as of `ulimit -v` beforehand: Ray's native code ends this process where it cannot map its store.

    Raises:
        ValueError: if it is less than Ray maps.
    """
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return
    text = Path("/proc/meminfo").read_text()
    available = next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("MemAvailable"))
    store = int(_STORE_SHARE * available)
    needed = max(store + _BESIDE_STORE, 2 * store + _BESIDE_STORE_TWICE)
    if limit < needed:
        raise ValueError(
            f"a process may map {limit / 1e9:.1f} GB here, and Ray's map about {needed / 1e9:.1f} GB; raise the limit "
            "with 'ulimit -v unlimited', or leave Ray out with --in-process"
        )


@contextmanager
def _bounded() -> Iterator[None]:
    """End the process where a start hangs so that no other thread of it goes on, as Ray's native code can."""
    with open(os.devnull, "w") as nowhere:
        faulthandler.dump_traceback_later(_START_SECONDS + _NATIVE_SECONDS, exit=True, file=nowhere)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


@contextmanager
def _silent() -> Iterator[None]:
    """Lead what native code prints on standard error nowhere: pages on why it ends this process."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def first_line(error: BaseException) -> str:
    """The first line of what an error says, Ray's errors say many; all as one where the first leads to a list."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(" ".join(lines).split()) if lines[0].endswith(":") else lines[0]
