"""The processes of a cluster of a command's own end with the command, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid

import pytest
from support.commands import marked, until

from qkatlas.cluster import processes
from qkatlas.cluster.guardian import _UNSAID

pytestmark = pytest.mark.slow

# A process that answers no signal and belongs to nobody, as some of Ray's, and then the end.
PROGRAM = """
import os, signal, subprocess, sys
from qkatlas.cluster.processes import end_marked, leave, mark
mark()
mark()
orphan = "import signal, sys, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(100)"
child = subprocess.Popen([sys.executable, "-c", orphan], start_new_session=True, stdout=subprocess.PIPE)
child.stdout.read(2)
{end}
"""


@pytest.mark.parametrize(("end", "code", "said"), [
    ("end_marked(); assert child.wait(1) == -9; end_marked()", 0, ""),
    ("end_marked(); mark(); end_marked()", 0, ""),
    ("leave(3)", 3, ""),
    ("os._exit(4)", 4, f"{_UNSAID}\n"),
    ("os.kill(os.getpid(), 9)", -9, f"{_UNSAID}\n"),
    ("os.abort()", -6, f"{_UNSAID}\n"),
    ("os.killpg(0, 9)", -9, f"{_UNSAID}\n"),
    ("os.killpg(0, 15)", -15, f"{_UNSAID}\n"),
])  # fmt: skip
def test_no_process_outlives_the_command_and_a_sudden_end_is_one_line(end: str, code: int, said: str) -> None:
    name = uuid.uuid4().hex
    command = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(end=end)], env={**os.environ, "TEST_MARK": name},
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    _, error = command.communicate(timeout=60)  # the guardian has the pipe, too: its end is awaited
    assert (command.returncode, error) == (code, said)
    until(lambda: not marked(f"TEST_MARK={name}"), 5)


def test_children_that_have_ended_are_told_with_what_ended_them() -> None:
    before = processes.ended_children()
    killed = subprocess.Popen(["sleep", "100"])
    assert killed.pid not in processes.ended_children()
    killed.kill()
    left = subprocess.Popen([sys.executable, "-c", "raise SystemExit(5)"])
    expected = {**before, killed.pid: signal.SIGKILL, left.pid: 0}
    until(lambda: processes.ended_children() == expected, 20)
    assert killed.wait() == -9
    assert left.wait() == 5
    assert not {killed.pid, left.pid} & set(processes.ended_children())
