"""Signals: one line, exit code 128 + n, whatever the command is at."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from support.commands import ended, start

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
LINE = "submit: interrupted; what was committed is kept, and the same command goes on from there\n"

AT_IMPORT = """
import os, sys, signal
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Finder())
"""

AT_RECEIPT = """
import os, signal, time, hashlib
from qkatlas.outputs.runs.journal import Journal
append = Journal.append
class Dying:
    def __del__(self):
        os.kill(os.getpid(), {number})
def replaced(journal, receipt):
    append(journal, receipt)
    {action}
Journal.append = replaced
"""

KILL = "os.kill(os.getpid(), {number})"
HIDDEN = f"""
    try:
        {KILL}
    except BaseException:
        raise {{error}}
"""
SWALLOWED = f"""
    try:
        {KILL}
    except BaseException:
        pass
    {{then}}
"""
FULL = f"""
    os.set_blocking(2, False)
    try:
        while os.write(2, b"x" * 4096):
            pass
    except OSError:
        os.set_blocking(2, True)
    {KILL}
"""
LONG = 'hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)'  # a long step, as of numba: other threads go on


def submit(model: Path, out: Path, before: str, **more: object) -> tuple[int, str, str]:
    request = ("full-vocab", "--model", model, "--in-process", "--out", out, "--shards", 3, "--quiet")
    return ended(start(*request, before=before, **more), 60)


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_shards_run_is_one_line(number: int, random_model: Path, tmp_path: Path) -> None:
    # A shell without job control starts what it leaves in the background with some signals ignored.
    heard = f"import signal; signal.signal({number}, signal.SIG_DFL)\n"
    before = heard + AT_RECEIPT.format(number=number, action=KILL.format(number=number))
    assert submit(random_model, tmp_path, before) == (128 + number, "", LINE)


@pytest.mark.slow
@pytest.mark.parametrize("module", ["click", "numpy", "qkatlas.jobs.loop.session", "torch", "numba"])
def test_a_signal_while_anything_is_loaded_is_one_line(module: str, random_model: Path, tmp_path: Path) -> None:
    before = AT_IMPORT.format(module=module, number=int(signal.SIGTERM))
    assert submit(random_model, tmp_path, before) == (128 + signal.SIGTERM, "", LINE)


@pytest.mark.slow
@pytest.mark.parametrize("action", [
    HIDDEN.format(number=2, error="SystemError"),
    HIDDEN.format(number=2, error='ValueError("hidden")'),
    HIDDEN.format(number=2, error='OSError(28, "hidden")'),
    HIDDEN.format(number=2, error="SystemExit(7)"),
    SWALLOWED.format(number=2, then=""),
    SWALLOWED.format(number=2, then=f"if True: {KILL.format(number=15)}"),
    SWALLOWED.format(number=2, then="time.sleep(50)"),
    SWALLOWED.format(number=2, then=LONG),
    f"import _thread, threading; threading.Timer(0.3, os.kill, (os.getpid(), 2)).start(); {LONG}",
    "Dying(); time.sleep(50)",
])  # fmt: skip
def test_a_signal_that_a_library_hides_is_one_line(action: str, random_model: Path, tmp_path: Path) -> None:
    before = AT_RECEIPT.format(number=2, action=action)
    assert submit(random_model, tmp_path, before) == (130, "", LINE)


@pytest.mark.slow
def test_a_signal_to_a_command_whose_errors_nobody_reads_ends_it(random_model: Path, tmp_path: Path) -> None:
    before = AT_RECEIPT.format(number=2, action=FULL.format(number=2))
    command = start("full-vocab", "--model", random_model, "--in-process", "--out", tmp_path, "--quiet", before=before)
    assert command.wait(60) == 130
    command.communicate()


@pytest.mark.slow
def test_what_nohup_ignores_is_ignored(random_model: Path, tmp_path: Path) -> None:
    before = AT_RECEIPT.format(number=1, action=KILL.format(number=1))
    before = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n{before}"
    assert submit(random_model, tmp_path, before) == (0, "", "")
