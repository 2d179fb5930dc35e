"""Options from a file, and a run's own settings as such a file."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import qkatlas as qk
from qkatlas.jobs.cli.config import read_config, words_of, write_config
from qkatlas.jobs.cli.handover import Handover
from qkatlas.jobs.main import run as submit
from qkatlas.jobs.main import submit as program
from qkatlas.outputs.runs import store


def parsed(job: str, *arguments: str) -> Any:
    return program.commands[job].make_context(job, list(arguments))


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    def written(text: str) -> str:
        file = tmp_path / "options.toml"
        file.write_text(text, encoding="utf-8")
        return str(file)

    return written


def test_a_file_gives_options_by_their_names_and_what_is_typed_goes_before(write: Callable[[str], str]) -> None:
    file = write('job = "steering"\nhead = "L2H3"\ntop_k = 7\nalpha = [1, 0.5]\nin-model = true\nmodel = "m"\n')
    context = parsed("steering", "--config", file, "--head", "L0H1")
    assert {name: context.params[name] for name in ("head", "top_k", "alphas", "in_model", "model")} == {
        "head": "L0H1", "top_k": 7, "alphas": "1,0.5", "in_model": True, "model": "m",
    }  # fmt: skip
    assert "config" not in context.params
    typed = parsed(*words_of(context)[:1], *words_of(context)[1:])
    assert typed.params == context.params
    ablation = parsed("ablation", "--config", write("loss = false\nexport = 'x'\n".splitlines()[0]))
    assert ablation.params["loss"] is False
    assert words_of(ablation) == ["ablation", "--no-loss"]
    communities = parsed("communities", "--config", write('run = "-latest"\nresolution = 2\n'))
    assert words_of(communities) == ["communities", "--resolution", "2.0", "--", "-latest"]


def test_options_of_a_file_travel_to_a_cluster(write: Callable[[str], str]) -> None:
    context = parsed("full-vocab", "--config", write("top-k = 3\nquiet = true\n"), "--address", "http://h:1")
    assert Handover.of(context).entrypoint() == "python -m qkatlas full-vocab --address auto --top-k 3 --quiet"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("topk = 3", "'topk' is no option of full-vocab; did you mean top-k? or see submit full-vocab --help"),
        ("top-k = 3\ntop_k = 4", "gives --top-k twice; keep one"),
        ('top-k = "3"', '--top-k is "3"; give a whole number'),
        ("top-k = 3.5", "--top-k is 3.5; give a whole number"),
        ("top-k = true", "--top-k is true; give a whole number"),
        ("quiet = 1", "--quiet is 1; give true or false"),
        ("head = ['L1H5']", '--head is ["L1H5"]; give a text'),
        ("head = 2026-01-01", '--head is "2026-01-01"; give a text'),
        ("top-k = 0", "--top-k 0 is below 1; keep at least one key a token"),
        ("head = L1H5", "is no TOML"),
        ('job = "head-scan"', "is for another job; submit that one"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(
    text: str, said: str, write: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit(["full-vocab", "--config", write(text)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("submit: error: ")
    assert error.count("\n") == 1


def test_a_file_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (tmp_path / "none.toml", tmp_path):
        assert submit(["full-vocab", "--config", str(file)]) == 2
        assert "cannot be read" in capsys.readouterr().err


@given(st.text(), st.floats(allow_nan=False, allow_infinity=False), st.booleans())
def test_what_is_written_is_read_again(tmp_path_factory: Any, head: str, share: float, quiet: bool) -> None:
    try:
        head.encode()
    except UnicodeEncodeError:
        return
    from qkatlas.jobs.cli.command import options_of_command
    from qkatlas.jobs.loop.declaration import declarations

    options = options_of_command(declarations()["full-vocab"])
    values = {"head": head, "exclude_hubs": share, "quiet": quiet, "top_k": 3}
    file = tmp_path_factory.mktemp("toml") / "options.toml"
    file.write_bytes(write_config("full-vocab", values, options).encode())
    assert read_config(file, "full-vocab", options) == values


@pytest.mark.slow
def test_a_run_is_asked_for_again(
    random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, other, file = (str(tmp_path / name) for name in ("out", "other", "options.toml"))
    Path(file).write_text("top-k = 6\n")
    arguments = ["full-vocab", "--model", str(random_model), "--head", "L1H2", "--config", file, "--in-process"]
    monkeypatch.setattr(sys, "argv", ["submit", *arguments, "--out", out, "--quiet"])
    assert submit([*arguments, "--out", out, "--quiet"]) == 0
    Path(file).write_text("top-k = 9\n")  # the manifest says what the file said
    run = qk.open("latest", out=out)
    capsys.readouterr()
    assert submit(["rerun", "latest", "--out", out, "--show"]) == 0
    shown = capsys.readouterr().out
    assert tomllib.loads(shown) == {
        "job": "full-vocab", "model": str(random_model), "head": "L1H2", "top-k": 6, "states": "mlp",
        "scores": "attention",
    }  # fmt: skip
    Path(file).write_text(shown)
    assert submit(["full-vocab", "--config", file, "--out", out]) == 0
    assert "finished before; nothing had to be computed" in capsys.readouterr().out
    monkeypatch.setattr("qkatlas.cluster.ray_cluster.RayExecutor", in_process)
    assert submit(["rerun", run.name, "--out", out, "--into", other]) == 0
    again = qk.open("latest", out=other)
    assert again.name == run.name
    assert again.table("topk").equals(run.table("topk"))
    assert "this is another run" not in capsys.readouterr().out
    # Another model of that name since then: another run, and it is said.
    config = json.loads((random_model / "config.json").read_text())
    moved = tmp_path / "model"
    moved.mkdir()
    for name in ("model.safetensors", "config.json"):
        (moved / name).write_bytes((random_model / name).read_bytes())
    first = qk.full_vocab(moved, head="L0H0", out=out, quiet=True)
    (moved / "config.json").write_text(json.dumps({**config, "layer_norm_epsilon": 1e-3}))
    assert submit(["rerun", first.name, "--out", out]) == 0
    assert f"this is another run than {first.name}" in capsys.readouterr().out
    assert len(store.all_runs(out)) == 3


def in_process(*arguments: object, **more: object) -> Any:
    from qkatlas.cluster.in_process import InProcessExecutor

    return InProcessExecutor()


@pytest.mark.slow
def test_what_cannot_be_asked_for_again_is_refused(
    random_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from support.small_runs import finish
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(random_model)
    run = qk.full_vocab(model, head="L0H0", out=tmp_path, quiet=True)
    other = finish(tmp_path).folder.name
    capsys.readouterr()
    for name, said in ((run.name, "was made of values in a program's memory"), (other, "is of test, which is no job")):
        assert submit(["rerun", name, "--out", str(tmp_path)]) == 2
        assert said in capsys.readouterr().err
    (Path(run.folder) / "manifest.json").unlink()
    assert submit(["rerun", run.name, "--out", str(tmp_path)]) == 2
    assert "is not finished" in capsys.readouterr().err
