"""The command line in a process of its own, as a user has it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

START = "from qkatlas.__main__ import main; main()"


def start(*arguments: object, before: str = "", **more: Any) -> subprocess.Popen[str]:
    """Start a command.

    Args:
        arguments: of `submit`.
        before: Python that is run in its process before.
        more: of Popen; both streams are pipes otherwise.
    """
    more = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | more
    program = f"{before}\n{START}" if before else START
    return subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)], **more)


def ended(command: subprocess.Popen[str], seconds: float = 120) -> tuple[int, str, str]:
    """Its exit code and what it printed; it is killed if it does not end."""
    try:
        printed, error = command.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        command.kill()
        command.communicate()
        raise
    return command.returncode, printed or "", error or ""


def marked(mark: str) -> dict[int, str]:
    """Processes that have a text in their environment, with their whole command line."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            try:
                if mark.encode() in (folder / "environ").read_bytes():
                    found[int(folder.name)] = (folder / "cmdline").read_text(errors="replace").replace("\0", " ")
            except OSError:  # it has ended
                continue
    return {process: line for process, line in found.items() if line}


def until(found: Callable[[], Any], seconds: float = 60) -> Any:
    """What is found at last."""
    deadline = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)
    return result
