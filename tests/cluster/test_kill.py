"""`kill -9` of the driver at any moment, on embedded Ray: the next submission ends with the same tables."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qkatlas.outputs.runs import soundness, store
from qkatlas.outputs.runs.run import Run

pytestmark = pytest.mark.cluster


def command(model: Path, out: Path) -> list[str]:
    program = "from qkatlas.jobs.main import main; main()"
    return [
        sys.executable,
        "-c",
        program,
        "full-vocab",
        "--model",
        str(model),
        "--out",
        str(out),
        "--shards",
        "40",
        "--ray",
    ]


def hashes(run: Run) -> dict[str, str]:
    return {
        file.relative_to(run.folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in Path(run.folder).rglob("*.parquet")
    }


def test_a_killed_run_is_finished_by_the_next_submission(planted_tiny: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(planted_tiny, whole), check=True, capture_output=True)
    (expected,) = store.all_runs(whole)

    driver = subprocess.Popen(
        command(planted_tiny, killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    run = Run(killed / expected.folder.name)
    journal = Path(run.folder) / "_state/receipts.jsonl"
    deadline = time.monotonic() + 120
    while not (journal.exists() and journal.read_bytes().count(b"\n") >= 8):
        assert time.monotonic() < deadline, "the run never got to its eighth shard"
        assert driver.poll() is None, "the run ended before it could be killed"
        time.sleep(0.002)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    committed = journal.read_bytes().count(b"\n")
    assert 8 <= committed < 40
    assert run.manifest() is None

    done = subprocess.run(command(planted_tiny, killed), check=True, capture_output=True, text=True)
    assert f"{committed} of 40 shards are there already; computing the other {40 - committed}" in done.stderr
    assert f"{40 - committed} shards in" in done.stdout
    assert hashes(run) == hashes(expected)
    assert soundness.faults(run) == []


def test_gpus_that_no_machine_here_has_are_refused_before_anything_starts(planted_tiny: Path, tmp_path: Path) -> None:
    if Path("/proc/driver/nvidia/gpus").exists():
        pytest.skip("this machine has GPUs")
    started = time.monotonic()
    done = subprocess.run([*command(planted_tiny, tmp_path / "out"), "--gpus", "8"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "1 node" in done.stderr
    assert "0 GPUs" in done.stderr
    assert not (tmp_path / "out").exists()
    assert time.monotonic() - started < 30
