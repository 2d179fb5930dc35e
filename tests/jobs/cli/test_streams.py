"""Readers that leave, or never were there, change no exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.commands import START, ended, start
from support.small_runs import finish

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    sound, faulty = finish(out), finish(out, other=1)
    (Path(faulty.folder) / "tokens.parquet").write_bytes(b"")
    Path(sound.folder).rename(out / f"sound-{sound.folder.name.rpartition('-')[2]}")
    return out


def commands(runs: Path) -> list[tuple[tuple[object, ...], int]]:
    return [
        (("--help",), 0),
        ((), 2),
        (("runs", "--out", runs), 0),
        (("status", "sound", "--out", runs), 0),
        (("verify", "sound", "--out", runs), 0),
        (("verify", "test", "--out", runs), 1),
        (("verify", "none", "--out", runs), 2),
    ]


@pytest.mark.parametrize("number", range(7))
@pytest.mark.parametrize("streams", [(1,), (2,), (1, 2)])
def test_a_reader_that_has_left_changes_no_exit_code(number: int, streams: tuple[int, ...], runs: Path) -> None:
    arguments, code = commands(runs)[number]
    reading, writing = os.pipe()
    os.close(reading)
    ways: dict[str, Any] = {name: writing for fd, name in ((1, "stdout"), (2, "stderr")) if fd in streams}
    done, _, error = ended(start(*arguments, **ways))
    os.close(writing)
    assert done == code
    assert "Traceback" not in error
    assert "Exception" not in error


@pytest.mark.parametrize("number", range(7))
@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_streams_that_are_closed_change_no_exit_code(number: int, closed: tuple[int, ...], runs: Path) -> None:
    arguments, code = commands(runs)[number]
    shut = " ".join({0: "<&-", 1: ">&-", 2: "2>&-"}[one] for one in closed)
    program = ["sh", "-c", f'exec "$@" {shut}', "sh", sys.executable, "-c", START, *map(str, arguments)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("end", ["head -1", "true"])
def test_a_job_whose_output_is_cut_ends_as_it_does(end: str, random_model: Path, tmp_path: Path) -> None:
    request = ["full-vocab", "--model", str(random_model), "--in-process", "--out", str(tmp_path), "--shards", "20"]
    script = f'set -o pipefail; "$@" 2>&1 | {end}'
    for _ in range(2):  # the second has nothing to compute, and prints at once
        program = ["bash", "-c", script, "bash", sys.executable, "-c", START, *request]
        done = subprocess.run(program, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")
    assert ended(start("verify", "full-vocab", "--out", tmp_path))[0] == 0


def test_a_file_opened_in_place_of_a_closed_stream_is_not_written_to(random_model: Path, tmp_path: Path) -> None:
    request = ["full-vocab", "--model", str(random_model), "--in-process", "--out", str(tmp_path)]
    program = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", START, *request]
    assert subprocess.run(program, timeout=120).returncode == 0
    assert ended(start("verify", "full-vocab", "--out", tmp_path))[0] == 0


def test_output_that_is_lost_is_said(runs: Path) -> None:
    with open("/dev/full", "w") as full:
        code, _, error = ended(start("runs", "--out", runs, stdout=full))
    assert code == 1
    assert error.count("\n") == 1
    assert "No space left on device" in error
    assert "Traceback" not in error
