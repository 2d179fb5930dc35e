"""Commands end with their own exit code, whatever native threads still do: a run's tables are read by Arrow's."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.commands import ended, start

from qkatlas.jobs.main import run

pytestmark = pytest.mark.slow

TIMES = 5

# A thread of Arrow's that asks for Python for ever: where Python ends by itself, that takes the process down.
ASKING = """
import pyarrow, pyarrow.csv, threading, time
asking = threading.Event()
class File:
    closed = False
    def read(self, size):
        asking.set()
        while True:
            time.sleep(0.001)
source = pyarrow.PythonFile(File(), mode="r")
threading.Thread(target=pyarrow.csv.open_csv, args=(source,), daemon=True).start()
assert asking.wait(30)
"""


@pytest.fixture(scope="module")
def place(planted_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a run in `runs`, a list of one token, one of a token that is not there, and a file."""
    place = tmp_path_factory.mktemp("ending")
    request = ["full-vocab", "--model", str(planted_tiny), "--in-process", "--quiet", "--out", str(place / "runs")]
    assert run(request) == 0
    (place / "one.csv").write_text("token,id,count\nx,5,3\n")
    (place / "none.csv").write_text("token,id,count\nx,99999,3\n")
    (place / "file").write_text("")
    return place


COMMUNITIES = ("communities", "latest", "--in-process", "--quiet", "--out", "runs")

REFUSALS = {
    "--neighbours 100000 is too many": (*COMMUNITIES, "--neighbours", "100000"),
    "names token 99999": (*COMMUNITIES, "--frequencies", "none.csv"),
    "has no edge": (*COMMUNITIES, "--frequencies", "one.csv"),
    "cannot be written": ("report", "latest", "--runs", "runs", "--out", "file/report.html"),
}
"""Requests that are refused after tables were read, by what is said."""


@pytest.mark.parametrize("said", REFUSALS)
def test_a_refusal_after_tables_were_read_is_one_line_and_its_code_each_time(said: str, place: Path) -> None:
    for _ in range(TIMES):
        code, printed, error = ended(start(*REFUSALS[said], cwd=place))
        assert (code, printed, error.count("\n")) == (2, "", 1), error
        assert said in error


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        *((arguments, 2) for arguments in REFUSALS.values()),
        (("verify", "latest", "--out", "runs"), 0),
        (("--help",), 0),
    ],
)
def test_a_native_thread_that_still_asks_for_python_changes_no_exit_code(
    arguments: tuple[str, ...], expected: int, place: Path
) -> None:
    code, _, error = ended(start(*arguments, cwd=place, before=ASKING))
    assert (code, error.count("\n")) == (expected, 1 if expected else 0), error
    assert "terminate called" not in error
