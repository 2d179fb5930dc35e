"""A process beside a command with a cluster of its own: it ends the cluster's processes once the command has ended.

However that ended: no signal, crash or exit of the command's own is too sudden. It is run as a program, in a Python
that loads nothing else: `guardian.py MARK`, with the other end of a pipe in the command's hands as standard input.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

SAID = b"."
"""What the command writes before it ends in order."""

_UNSAID = (
    "submit: error: the command was killed, or ended by its cluster when that broke down; what was committed is kept, "
    "submit the same request again"
)

_SECONDS = 5.0
"""How long processes may go on to appear."""


def main(mark: str) -> None:
    """Wait for the command to end, and end what is left of its cluster.

    Args:
        mark: what its processes have in their environment.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)  # meant for the command, which ends this with it
    last = b""
    while content := os.read(0, 100):
        last = content
    if not last.endswith(SAID):
        with suppress(OSError):
            os.write(2, f"{_UNSAID}\n".encode())
    deadline = time.monotonic() + _SECONDS
    while left := list(_marked(mark.encode())):
        for process in left:
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)


def _marked(mark: bytes) -> Iterator[int]:
    """Processes with the mark; where there is no /proc none, and Ray's own follow the one that started them."""
    names = os.listdir("/proc") if os.path.isdir("/proc") else []
    for name in names:
        if name.isdecimal():
            with suppress(OSError), open(f"/proc/{name}/environ", "rb") as stream:  # ended, or another user's
                if mark in stream.read().split(b"\0"):
                    yield int(name)


if __name__ == "__main__":
    main(sys.argv[1])  # noqa: TID251 - a program of its own
