"""Plans: the shards, files and rows of real runs exactly, their bytes nearly, and figures that grow as they must."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from support.gguf_files import real_model

from qkatlas.jobs.full_vocab.job import FullVocabJob
from qkatlas.jobs.full_vocab.plan import plan_full_vocab
from qkatlas.jobs.full_vocab.spec import FullVocab
from qkatlas.jobs.head_scan.job import HeadScanJob
from qkatlas.jobs.head_scan.plan import plan_head_scan
from qkatlas.jobs.head_scan.spec import HeadScan
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.loop.service import submit
from qkatlas.jobs.main import run
from qkatlas.jobs.plan.device import GPUS
from qkatlas.jobs.plan.plan import Machines, Plan
from qkatlas.jobs.plan.shape import PRESETS, Shape, find_shape
from qkatlas.outputs.runs.run import Run


def scan(shape: Shape, heads: str | None = None, layers: str | None = None, prompts: int = 128) -> Plan:
    return plan_head_scan(shape, HeadScan(layers=layers, heads=heads, prompts=prompts))


def one_head(shape: Shape, top_k: int = 64, shards: int | None = None) -> Plan:
    return plan_full_vocab(shape, FullVocab(top_k=top_k, shards=shards))


def require_planned(plan: Plan, finished: Run, out: Path) -> None:
    """A finished run is as it was planned."""
    manifest = finished.manifest()
    assert manifest is not None
    assert list(plan.shards) == [done.shard for done in manifest.shards]
    on_disk = [
        path for path in (out / finished.folder.name).rglob("*") if path.is_file() and "_state" not in path.parts
    ]
    assert plan.files == len(on_disk) == 1 + len(manifest.parts)
    files, rows, sizes = Counter(), Counter(), Counter()
    for part in manifest.parts:
        table = part.path.split("/")[0].removesuffix(".parquet")
        files[table] += 1
        rows[table] += part.rows
        sizes[table] += part.bytes
    assert {table.name: table.files for table in plan.tables} == dict(files)
    assert {table.name: table.rows for table in plan.tables} == dict(rows)
    assert 0.7 < plan.bytes / sum(sizes.values()) < 1.4
    for name in ("topk", "self"):
        (planned,) = (table for table in plan.tables if table.name == name)
        assert 0.7 < planned.bytes(plan.shape.vocab_size) / sizes[name] < 1.4


@pytest.mark.parametrize(("top_k", "shards"), [(16, None), (64, 3)])
def test_a_full_vocab_run_is_as_planned(
    planted_tiny: Path, tmp_path: Path, executor: object, top_k: int, shards: int | None
) -> None:
    job = FullVocabJob(FullVocab(top_k=top_k, shards=shards), Model.open("tiny", planted_tiny))
    result = submit(job, out=tmp_path, executor=executor, gpus=0)
    require_planned(one_head(find_shape("planted-tiny"), top_k, shards), result.run, tmp_path)


def test_a_run_without_hubs_is_as_planned(planted_tiny: Path, tmp_path: Path, executor: object) -> None:
    spec = FullVocab(top_k=16, shards=2, exclude_hubs=0.5)  # no key is the best of so many rows there
    job = FullVocabJob(spec, Model.open("tiny", planted_tiny))
    result = submit(job, out=tmp_path, executor=executor, gpus=0)
    require_planned(plan_full_vocab(find_shape("planted-tiny"), spec), result.run, tmp_path)


@pytest.mark.slow
def test_a_head_scan_is_as_planned(planted_tiny: Path, tmp_path: Path, executor: object) -> None:
    job = HeadScanJob(HeadScan(heads=("L0H1", "L1H5", "L1H6"), prompts=40), Model.open("tiny", planted_tiny))
    result = submit(job, out=tmp_path, executor=executor, gpus=0)
    require_planned(scan(find_shape("planted-tiny"), "L0H1,L1H5,L1H6", prompts=40), result.run, tmp_path)


@pytest.fixture
def executor() -> object:
    from qkatlas.cluster.in_process import InProcessExecutor

    return InProcessExecutor()


def test_a_shape_is_read_from_the_configuration_alone(planted_tiny: Path, tmp_path: Path) -> None:
    shutil.copy(planted_tiny / "config.json", tmp_path)
    read = find_shape(str(tmp_path))
    assert replace(read, name="", source="") == replace(find_shape("planted-tiny"), name="", source="")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gpt2", 124.4e6), ("gpt2-medium", 354.8e6), ("gpt2-large", 774.0e6), ("gpt2-xl", 1557.6e6),
        ("llama-3-8b", 8.03e9), ("llama-3-70b", 70.6e9), ("gemma-2-2b", 2.61e9), ("gemma-2-9b", 9.24e9),
    ],
)  # fmt: skip
def test_presets_have_the_published_number_of_parameters(name: str, parameters: float) -> None:
    assert PRESETS[name].weights == pytest.approx(parameters, rel=0.005)


def test_presets_are_all_checked() -> None:
    assert len(PRESETS) == 8
    assert [PRESETS[name].heads for name in ("gpt2", "llama-3-8b", "gemma-2-9b")] == [144, 1024, 672]
    assert {name for name, shape in PRESETS.items() if not shape.computed} == {
        "llama-3-8b", "llama-3-70b", "gemma-2-2b", "gemma-2-9b"
    }  # fmt: skip


GPT2 = PRESETS["gpt2"]
CPU = Machines.of(gpus=0, cpus=4, gpu=None)


def figures(plan: Plan) -> list[float]:
    return [
        plan.bytes, plan.flops, sum(CPU.seconds(plan).values()),
        plan.memory.worker, plan.memory.driver, plan.memory.gpu,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("smaller", "larger"),
    [
        (one_head(GPT2), one_head(replace(GPT2, vocab_size=128256))),
        (one_head(GPT2, 16), one_head(GPT2, 256)),
        (scan(GPT2), scan(replace(GPT2, vocab_size=128256))),
        (scan(GPT2), scan(PRESETS["gpt2-medium"])),
    ],
)
def test_more_to_do_takes_more(smaller: Plan, larger: Plan) -> None:
    for less, more in zip(figures(smaller), figures(larger), strict=True):
        assert less <= more
    assert figures(smaller)[:3] < figures(larger)[:3]
    assert smaller.bytes < larger.bytes


def test_more_heads_take_more() -> None:
    plans = [scan(GPT2, layers=layers, heads=heads) for layers, heads in (("1", "0"), ("1", "0-3"), ("1", None))]
    plans += [scan(GPT2, layers=layers) for layers in ("0-3", None)]
    for smaller, larger in pairwise(plans):
        assert smaller.files < larger.files
        for less, more in zip(figures(smaller), figures(larger), strict=True):
            assert less <= more


@pytest.mark.parametrize("plan", [one_head(GPT2), scan(PRESETS["llama-3-8b"])])
def test_more_workers_take_no_longer_and_no_less_than_the_bound(plan: Plan) -> None:
    for gpu in GPUS.values():
        before = float("inf")
        for gpus in (1, 2, 8, 64):
            machines = Machines.of(gpus=gpus, cpus=4 * gpus, gpu=gpu)
            taken = sum(machines.seconds(plan).values())
            bound = machines.bound(plan)
            assert bound is not None
            assert bound < taken <= before
            before = taken
    assert CPU.bound(plan) is None


def test_the_products_of_a_head_are_two_for_each_score_and_dimension() -> None:
    (scores,) = (step for step in one_head(GPT2).steps if step.name == "scores")
    assert scores.load.float32 == 2 * 50257**2 * 64
    assert scores.load.scores == 50257**2
    # On a GPU the float32 products are made twice; the float64 ones are few.
    bound = Machines.of(gpus=2, cpus=8, gpu=GPUS["h100"]).bound(one_head(GPT2))
    assert bound == pytest.approx(2 * (2 * 50257**2 * 64) / 67e12 / 2, rel=0.01)


def test_the_command_says_what_matters(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "head-scan", "--model", "llama-3-8b", "--gpus", "8", "--gpu", "l4"]) == 0
    printed = capsys.readouterr().out
    for text in ("Planned only", "2057 shards, 6154 files", "8 GPUs (l4)", "not measured", "does not fit"):
        assert text in printed
    assert run(["plan", "full-vocab", "--json", "--gpus", "2"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["shards"], plan["files"], plan["workers"]) == (13, 28, 2)
    assert plan["tables"]["topk"] == {"files": 13, "rows": 50257, "bytes": plan["tables"]["topk"]["bytes"]}
    assert plan["seconds_total"] == pytest.approx(sum(plan["seconds"].values()), abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["ablation"], ["plan ablation", "full-vocab or head-scan"]),
        (["full-vocab", "--model", "nothing"], ["--model 'nothing'", "gpt2"]),
        (["full-vocab", "--head", "L12H0"], ["L12H0", "L11H11"]),
        (["full-vocab", "--top-k", "50258"], ["--top-k 50258", "at most 50257"]),
        (["full-vocab", "--shards", "0"], ["--shards 0", "50257"]),
        (["full-vocab", "--gpus", "2", "--gpu", "abacus"], ["--gpu 'abacus'", "h100"]),
        (["full-vocab", "--gpu", "h100"], ["--gpu h100", "--gpus"]),
        (["head-scan", "--layers", "12"], ["--layers '12'", "0 to 11"]),
        (["head-scan", "--length", "1024"], ["--length 1024", "at most 1023"]),
        (["head-scan", "--prompts", "0"], ["--prompts 0"]),
    ],
)
def test_a_bad_request_is_one_line(arguments: list[str], named: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    for text in named:
        assert text in printed.err


def test_other_architectures_are_planned_from_their_configuration(tmp_path: Path) -> None:
    llama = {
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
    }  # fmt: skip
    gemma = {
        "model_type": "gemma2", "hidden_size": 3584, "intermediate_size": 14336, "num_hidden_layers": 42,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256, "vocab_size": 256000,
        "max_position_embeddings": 8192,
    }  # fmt: skip
    for config, preset in ((llama, "llama-3-8b"), (gemma, "gemma-2-9b")):
        (tmp_path / "config.json").write_text(json.dumps(config))
        found = find_shape(str(tmp_path))
        assert found.computed
        # There is no tokenizer beside it, so that nothing could be measured.
        assert found.auto == "mlp"
        unnamed = replace(found, name=preset, source="", computed=False, auto="context")
        assert unnamed == replace(PRESETS[preset], source="")
    (tmp_path / "config.json").write_text(json.dumps({**llama, "hidden_size": "wide"}))
    with pytest.raises(ValueError, match=r"hidden_size.*'wide'"):
        find_shape(str(tmp_path))


def test_a_directory_of_another_architecture_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "opt", "architectures": ["OPTForCausalLM"]}))
    assert run(["plan", "full-vocab", "--model", str(tmp_path)]) == 2
    assert "OPTForCausalLM" in capsys.readouterr().err
    (tmp_path / "config.json").write_text("[")
    assert run(["plan", "full-vocab", "--model", str(tmp_path)]) == 2
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.real
def test_the_learned_model_is_planned_from_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its shards and files, exactly, and its bytes on disk to a tenth."""
    file = real_model()
    asked = ["--model", "smollm2", "--head", "L3H4", "--states", "mlp"]
    assert run(["plan", "full-vocab", *asked, "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    shape = find_shape(str(file))
    assert (shape.n_layers, shape.n_heads, shape.kv_heads, shape.vocab_size) == (30, 9, 3, 49152)
    assert run(["full-vocab", *asked, "--in-process", "--out", str(tmp_path), "--quiet"]) == 0
    (folder,) = tmp_path.iterdir()
    manifest = json.loads((folder / "manifest.json").read_text())
    parts = list(folder.rglob("*.parquet"))
    assert planned["shards"] == len(manifest["shards"])
    assert planned["files"] == len(parts) + 1  # the manifest
    assert planned["bytes"] == pytest.approx(sum(part.stat().st_size for part in parts), rel=0.1)
