"""full-vocab on states behind a prefix and in context: its tables, identity, faults, plan and refusals."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest
from support.refusals import refused

from qkatlas.cluster.in_process import InProcessExecutor
from qkatlas.jobs.full_vocab.job import FullVocabJob
from qkatlas.jobs.full_vocab.plan import plan_full_vocab
from qkatlas.jobs.full_vocab.spec import FullVocab
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.loop.service import submit
from qkatlas.jobs.plan.shape import PRESETS
from qkatlas.outputs.runs import soundness
from qkatlas.outputs.runs.run import Run
from qkatlas.pipeline.circuit.context import ContextStates
from qkatlas.pipeline.circuit.kinds import PREFIX
from qkatlas.pipeline.circuit.projection import head_inputs, head_weights
from qkatlas.pipeline.circuit.states import TokenStates
from qkatlas.pipeline.models.checkpoint import Checkpoint
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.text.calibration import calibration_windows

FEW: dict[str, Any] = {"states": "context", "windows": 40, "draws": 3}


def job_of(folder: Path, **spec: Any) -> FullVocabJob:
    return FullVocabJob(FullVocab(**{"head": "L2H1", "top_k": 5, "shards": 4, **spec}), Model.open("test", folder))


def hashes(run: Run) -> dict[str, str]:
    files = sorted(Path(run.folder).rglob("*.parquet"))
    return {
        str(file.relative_to(run.folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
        if "_state" not in file.parts
    }


@pytest.mark.parametrize("kind", ["context", "prefix"])
def test_self_scores_are_those_of_the_states(worded_model: Path, tmp_path: Path, kind: str) -> None:
    spec = FEW if kind == "context" else {"states": "prefix", "prefix": "#1023,#7"}
    run = submit(job_of(worded_model, **spec), out=tmp_path, executor=InProcessExecutor(), gpus=0).run
    checkpoint = Checkpoint.open(worded_model)
    states: TokenStates | ContextStates
    if kind == "context":
        windows_WT = calibration_windows(worded_model, 1024, 40)
        states = ContextStates(checkpoint, windows_WT, prefix=[1023], draws=3, threads=1)
    else:
        states = TokenStates(checkpoint, PREFIX, prefix=[1023, 7], threads=1)
    inputs = head_inputs(head_weights(checkpoint, Head(2, 1)), states.advance_to(2), threads=1)
    own_V = (inputs.queries_VH.astype(np.float64) * inputs.keys_VH).sum(axis=1) * inputs.scale
    table = ds.dataset(run.folder / "self", partitioning="hive").to_table().sort_by("token_id")
    np.testing.assert_allclose(table["self_score"].to_numpy(), own_V, rtol=1e-6, atol=1e-6 * np.abs(own_V).max())


class Stopping(InProcessExecutor):
    """Stops the driver after two shards."""

    def map(self, function: Callable[..., Any], tasks: Any) -> Iterator[Any]:
        for number, outcome in enumerate(super().map(function, tasks)):
            if number == 2:
                raise KeyboardInterrupt
            yield outcome


@pytest.mark.slow
@pytest.mark.parametrize("spec", [FEW, {"states": "prefix", "prefix": "red cat"}])
def test_a_stopped_run_is_resumed_to_the_same_files(worded_model: Path, tmp_path: Path, spec: dict[str, Any]) -> None:
    whole = submit(job_of(worded_model, **spec), out=tmp_path / "whole", executor=InProcessExecutor(), gpus=0)
    with pytest.raises(KeyboardInterrupt):
        submit(job_of(worded_model, **spec), out=tmp_path / "stopped", executor=Stopping(), gpus=0)
    resumed = submit(job_of(worded_model, **spec), out=tmp_path / "stopped", executor=InProcessExecutor(), gpus=0)
    assert (whole.computed, resumed.computed) == (4, 2)
    assert resumed.run.folder.name == whole.run.folder.name
    assert hashes(resumed.run) == hashes(whole.run)
    assert soundness.faults(resumed.run) == []
    again = submit(job_of(worded_model, **spec), out=tmp_path / "stopped", executor=InProcessExecutor(), gpus=0)
    assert again.computed == 0


def test_settings_hold_what_changes_the_states_and_nothing_for_those_without_tokens(worded_model: Path) -> None:
    plain = {"head": "L2H1", "top_k": 5, "states": "mlp", "scores": "attention"}
    assert job_of(worded_model).settings() == plain
    assert job_of(worded_model, states="bos").settings() == plain | {"states": "bos"}
    named = job_of(worded_model, states="prefix", prefix="<|endoftext|>").settings()
    assert named == plain | {"states": "prefix", "prefix": [1023]}
    assert job_of(worded_model, states="prefix", prefix="#1023").settings() == named
    context = job_of(worded_model, **FEW).settings()
    assert context | {"windows_sha256": None} == plain | {
        "states": "context", "prefix": [1023], "windows": 40, "draws": 3, "windows_sha256": None,
    }  # fmt: skip
    assert job_of(worded_model, prefix="#1023", **FEW).settings() == context
    different = [
        job_of(worded_model, **{**FEW, **more}).settings() for more in ({"windows": 41}, {"draws": 2}, {"prefix": "#1"})
    ]
    default = job_of(worded_model, states="context").settings()
    assert (default["windows"], default["draws"]) == (512, 4)
    assert len({json.dumps(one, sort_keys=True) for one in (context, *different, default)}) == 5


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--states", "prefix"], ["--states prefix needs its tokens", "--prefix TEXT", "--states bos"]),
        (["--prefix", "red"], ["--prefix red", "--states auto", "--states prefix or context"]),
        (["--states", "bos", "--draws", "2"], ["--draws 2", "--states bos", "leave it out"]),
        (["--states", "prefix", "--prefix", "#1", "--windows", "9"], ["--windows 9", "--states context"]),
        (["--states", "context", "--draws", "0"], ["--draws 0"]),
        (["--states", "context", "--windows", "3"], ["--draws 4", "--windows 3", "as many windows or more"]),
        (["--states", "context", "--windows", "90000"], ["--windows 90000", "or fewer"]),
        (["--states", "prefix", "--prefix", ""], ["--prefix ''", "#0,#28"]),
        (["--states", "prefix", "--prefix", "#7,#1024"], ["#7,#1024", "1024", "end at 1023"]),
        (["--states", "prefix", "--prefix", ",".join(["#7"] * 64)], ["65 positions", "64", "--states mlp"]),
        (["--states", "context", "--prefix", ",".join(["#7"] * 56)], ["65 positions", "64", "--states mlp"]),
    ],
)
def test_a_bad_choice_of_states_is_one_line(
    worded_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: list[str]
) -> None:
    refused("full-vocab", worded_model, tmp_path, capsys, arguments, named)


def test_models_without_a_tokenizer_take_ids_only(
    random_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, named in (
        (["--states", "prefix", "--prefix", "red"], ["--prefix 'red' needs a tokenizer", "#0,#28"]),
        (["--states", "context"], ["--states context needs a tokenizer", "choose --states prefix or mlp"]),
    ):
        refused("full-vocab", random_model, tmp_path, capsys, arguments, named)
    assert job_of(random_model, states="prefix", prefix="#0,#3").settings()["prefix"] == [0, 3]


def test_a_plan_counts_every_window_a_token_is_read_behind() -> None:
    def states_of(**spec: Any) -> tuple[float, float]:
        plan = plan_full_vocab(PRESETS["gpt2"], FullVocab(head="L6H0", **spec))
        (step,) = (step for step in plan.steps if step.name == "token states")
        return step.load.float32, plan.memory.driver

    shape, d = PRESETS["gpt2"], 768
    one = 2.0 * (shape.attention_weights + shape.mlp_weights)
    prefix, _ = states_of(states="prefix", prefix="#1")
    assert prefix == one * 50257 * 6
    (_, plain), (found, memory) = states_of(states="mlp"), states_of(states="context")
    assert states_of() == (found, memory)  # the costliest that auto may mean
    assert found == one * (50257 * 4 * 6 + 512 * 9 * (12 + 6)) + 2 * 2.0 * 512 * 50257 * d
    assert 4.0 * 50257 * 5 * d < memory - plain
    # A run of the planted model, whose shape is that of gpt2, took 2.36 GB at its layer 1.
    at_1 = plan_full_vocab(shape, FullVocab(head="L1H5", states="context")).memory.driver
    assert at_1 == pytest.approx(2.36e9, rel=0.1)
    assert states_of(states="context", draws=8)[0] > 1.9 * found
    assert plan_full_vocab(shape, FullVocab(head="L0H0", states="context")).flops == pytest.approx(
        plan_full_vocab(shape, FullVocab(head="L0H0")).flops
    )
