"""Plans of a learned model beside its runs over Ray: bytes on disk and memory of driver and workers, to a tenth."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.gguf_files import real_model

from qkatlas.jobs.main import run

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.cluster]

_RUN = """
import json, sys
from qkatlas.cluster.memory import peak_memory
from qkatlas.jobs.main import run
code = run(sys.argv[1:])
print(json.dumps([code, peak_memory()]))
"""

FULL_VOCAB = ("full-vocab", "--model", "smollm2")


@pytest.mark.parametrize(
    "asked",
    [
        (*FULL_VOCAB, "--head", "L3H4", "--states", "mlp"),
        (*FULL_VOCAB, "--head", "L1H4", "--states", "prefix", "--prefix", "#0"),
        (*FULL_VOCAB, "--head", "L2H4", "--states", "context"),
    ],
    ids=lambda asked: " ".join(asked[3:]),
)
def test_a_run_takes_what_was_planned(
    asked: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real_model()
    assert run(["plan", *asked, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    command = [sys.executable, "-c", _RUN, *asked, "--gpus", "0", "--quiet", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    code, driver = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, done.stderr
    (folder,) = tmp_path.iterdir()
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    assert plan["shards"] == len(manifest["shards"])
    assert plan["files"] == len(manifest["parts"]) + 1
    assert plan["bytes"] == pytest.approx(sum(part["bytes"] for part in manifest["parts"]), rel=0.1)
    # The system counts what a process reads from the object store as its own.
    memory, shared = plan["memory"], plan["memory"]["shared"]
    worker = 2**20 * max(shard["measures"]["peak_memory_mb"] for shard in manifest["shards"])
    assert memory["worker"] + shared == pytest.approx(worker, rel=0.1)
    assert memory["driver"] + shared == pytest.approx(driver, rel=0.1)
