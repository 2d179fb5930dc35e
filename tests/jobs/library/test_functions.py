"""The functions of the library: lazy, declared once, and their runs are those of the command line."""

from __future__ import annotations

import inspect
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import torch

import qkatlas as qk
from qkatlas.jobs.library.functions import command_line, function_of, signature_of
from qkatlas.jobs.library.size import is_small
from qkatlas.jobs.loop.declaration import declarations
from qkatlas.jobs.loop.request import Request
from qkatlas.jobs.main import run as submit
from qkatlas.outputs.runs import store

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_import_loads_nothing() -> None:
    program = "import sys; before = set(sys.modules); import qkatlas; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, timeout=60,
                          env={"PYTHONPATH": str(ROOT / "src")})  # fmt: skip
    found = {name for name in done.stdout.split() if not name.startswith("importlib")}
    assert found - set(sys.stdlib_module_names) == {"qkatlas"}, done.stderr


@pytest.mark.slow
def test_the_import_is_lazy() -> None:
    program = (
        "import sys, time; start = time.perf_counter(); import qkatlas as qk; took = time.perf_counter() - start\n"
        "heavy = {'torch', 'ray', 'numpy', 'pyarrow', 'click', 'rich', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy; assert took < 0.3, took; assert qk.__version__\n"
        "qk.open, qk.runs; assert 'torch' not in sys.modules and 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_every_job_has_a_function_with_the_fields_of_its_spec() -> None:
    for name, declared in declarations().items():
        function: Any = getattr(qk, name.replace("-", "_"))
        assert name.replace("-", "_") in dir(qk)
        given = inspect.signature(function).parameters
        assert {field.name for field in fields(declared.spec)} <= set(given)
        assert ("model" in given) == declared.opens_model == ("tokenizer" in given)
        for parameter in given:
            assert f"    {parameter}: " in function.__doc__
    with pytest.raises(AttributeError, match="no attribute 'full_vocabulary'; see dir"):
        _ = qk.full_vocabulary  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="unexpected keyword argument 'topk'"):
        qk.full_vocab("planted-tiny", topk=3)  # type: ignore[call-arg]


def test_the_types_are_those_that_the_jobs_declare() -> None:
    page = runpy.run_path(str(ROOT / "docs/library.py"))["page"]()
    assert (ROOT / "src/qkatlas/__init__.pyi").read_text(encoding="utf-8") == page + "\n", (
        "write it anew: python docs/library.py > src/qkatlas/__init__.pyi"
    )


@pytest.mark.slow
def test_a_function_and_the_command_make_one_run(random_model: Path, tmp_path: Path) -> None:
    arguments = ["--model", str(random_model), "--head", "L1H3", "--top-k", "5", "--states", "mlp", "--quiet"]
    assert submit(["full-vocab", *arguments, "--in-process"]) == 0
    (there,) = store.all_runs(tmp_path / "runs")
    before = there.manifest()
    run = qk.full_vocab(random_model, head="L1H3", top_k=5, states="mlp", quiet=True)
    assert run.name == there.folder.name
    assert there.manifest() == before  # it was finished
    assert [one.name for one in qk.runs()] == [run.name]


@pytest.mark.slow
def test_a_model_in_memory_makes_the_run_of_its_directory(
    make_random_model: Callable[..., Path], tmp_path: Path
) -> None:
    from transformer_lens.model_bridge.sources import build_bridge_from_module
    from transformers import AutoModelForCausalLM

    folder = make_random_model(11)
    wanted = qk.full_vocab(folder, head="L2H1", top_k=7, quiet=True)
    model = AutoModelForCausalLM.from_pretrained(folder)
    found = qk.full_vocab(model, head="L2H1", top_k=7, quiet=True, out=tmp_path / "memory")
    assert found.name == wanted.name
    bridge = build_bridge_from_module(model, type(model).__name__, hf_config=model.config)
    bridged = qk.full_vocab(bridge, head="L2H1", top_k=7, quiet=True, out=tmp_path / "bridge")
    for table in ("topk", "self", "tokens"):
        assert found.table(table).equals(wanted.table(table))
        assert bridged.table(table).equals(wanted.table(table))
    model.transformer.h[2].attn.c_attn.weight.data[0, 8] += 0.5  # of this head's queries
    changed = qk.full_vocab(model, head="L2H1", top_k=7, quiet=True, out=tmp_path / "memory")
    assert changed.name != found.name
    assert not changed.table("topk").equals(found.table("topk"))


@pytest.mark.slow
def test_a_tokenizer_may_be_given_beside_a_model(worded_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    wanted = qk.full_vocab(worded_model, head="L0H0", states="mlp", quiet=True)
    model = AutoModelForCausalLM.from_pretrained(worded_model)
    model.name_or_path = ""
    tokenizers: tuple[Any, ...] = (worded_model, str(worded_model), AutoTokenizer.from_pretrained(worded_model))
    for number, tokenizer in enumerate(tokenizers):
        out = tmp_path / f"out{number}"
        found = qk.full_vocab(model, tokenizer=tokenizer, head="L0H0", states="mlp", quiet=True, out=out)
        assert found.name == wanted.name
        assert found.topk(" red")["key"] == wanted.topk(" red")["key"]
    without = qk.full_vocab(model, head="L0H0", states="mlp", quiet=True)
    assert without.table("tokens")["text"][5].as_py() == "[5]"
    with pytest.raises(ValueError, match="tokenizer object is none of transformers; give one"):
        qk.full_vocab(model, tokenizer=object(), quiet=True)


@pytest.mark.slow
def test_bad_requests_are_told_in_one_line(tmp_path: Path) -> None:
    for arguments, said in (
        ({"head": "L99H0"}, "L99H0 is outside the model"),
        ({"top_k": 0}, "--top-k 0 is below 1; keep at least one key a token"),
        ({"states": "mop"}, "--states 'mop' is unknown; choose one of"),
        ({"gpus": 99, "in_process": True}, "--gpus 99 is more than the cluster has"),
        ({"tokenizer": "gpt2"}, "tokenizer= belongs to a model in memory"),
        ({"address": "http://head:8265"}, "is no cluster; give auto, host:port"),
    ):
        with pytest.raises(ValueError, match=r".+") as refused:
            qk.full_vocab("planted-tiny", **{"out": tmp_path / "none", **arguments})  # type: ignore[arg-type]
        assert said in str(refused.value)
        assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match="model int is no model; give a name, a directory"):
        qk.full_vocab(3)
    with pytest.raises(ValueError, match="Linear is no model that can be read"):
        qk.full_vocab(torch.nn.Linear(2, 2))
    assert not (tmp_path / "none").exists()


def test_a_job_runs_in_process_where_it_is_small() -> None:
    jobs = declarations()
    full, ablation = jobs["full-vocab"], jobs["ablation"]
    assert is_small(full, full.spec(), "planted-tiny")
    assert not is_small(full, full.spec(), "gpt2-xl")
    assert not is_small(full, full.spec(), "some/hub-name")
    assert not is_small(jobs["head-scan"], jobs["head-scan"].spec(), "planted")
    assert is_small(ablation, ablation.spec(), "planted-tiny")
    assert not is_small(ablation, ablation.spec(), "planted")


def test_texts_files_and_values_stand_for_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class StopError(Exception):
        pass

    def small(declaration: Any, spec: Any, model: Any) -> bool:
        made.append(spec)
        raise StopError

    monkeypatch.setattr("qkatlas.jobs.library.functions.is_small", small)
    words = tmp_path / "words.csv"
    words.write_text("colours,red,blue\nanimals,cat,dog\n")
    jobs = declarations()
    for given in ({"alphas": "1,0.5", "methods": ["eigen"]}, {"alphas": (1.0, 0.5), "methods": "eigen"}):
        with pytest.raises(StopError):
            function_of(jobs["steering"])("planted-tiny", **given)
    assert made[0] == made[1]
    assert made[0].alphas == (1.0, 0.5)
    for categories in (words, str(words)):
        with pytest.raises(StopError):
            function_of(jobs["head-scan"])("planted-tiny", categories=categories)
    assert made[2] == made[3]
    assert made[2].categories is not None
    for text in ("a text of my own", words):
        with pytest.raises(StopError):
            function_of(jobs["full-vocab"])("planted-tiny", states="context", text=text)
    assert [spec.text for spec in made[4:]] == ["a text of my own", words.read_text()]


def test_the_manifest_names_the_command_that_asks_for_the_same() -> None:
    declared = declarations()["head-scan"]
    given = signature_of(declared).bind("m", layers="0", top_k=3, categories=(("a", "b"),), seed=4).arguments
    line = command_line(declared, given, Request(model="m"))
    assert line == [
        "submit", "head-scan", "--model", "m", "--layers", "0", "--top-k", "3", "--categories", "<in memory>",
        "--seed", "4",
    ]  # fmt: skip
    ablation = declarations()["ablation"]
    given = signature_of(ablation).bind(object(), loss=False, quiet=True, in_process=True).arguments
    line = command_line(ablation, given, Request(model="m"))
    assert line[:4] == ["submit", "ablation", "--model", "<in memory>"]
    assert sorted(line[4:]) == ["--in-process", "--no-loss", "--quiet"]


@pytest.mark.slow
def test_communities_go_on_from_an_opened_run(planted_tiny: Path) -> None:
    source = qk.full_vocab(planted_tiny, head="L1H5", quiet=True)
    run = qk.communities(source, restarts=2, quiet=True)
    assert run.listed.job == "communities"
    assert pc.max(run.table("communities")["community"]).as_py() > 3
    assert np.array_equal(run.table("communities")["token_id"].to_numpy(), np.arange(1024))
    with pytest.raises(ValueError, match="has no table of tokens; look a token up in a run of its model"):
        run.token_id(" red")
