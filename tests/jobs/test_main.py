"""The command line: every bad request is one clear line and exit code 2, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.part_files import part_file

from qkatlas.jobs.main import run


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "runs"


Submit = Callable[..., tuple[int, str, str]]


@pytest.fixture
def submit(out: Path, capfd: pytest.CaptureFixture[str]) -> Submit:
    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run([*map(str, arguments), "--out", str(out)])
        text = capfd.readouterr()
        return code, text.out, text.err

    return call


def full_vocab(submit: Submit, model: Path | str, *arguments: object) -> tuple[int, str, str]:
    return submit("full-vocab", "--model", model, "--in-process", *arguments)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--head", "L12H0"], ["L12H0", "L0H0 to L2H7"]),
        (["--head", "L0H8"], ["L0H8", "L2H7"]),
        (["--head", "five"], ["'five'", "L1H5"]),
        (["--top-k", "0"], ["--top-k 0", "at least one"]),
        (["--top-k", "212"], ["--top-k 212", "at most 211"]),
        (["--top-k", "many"], ["'many'", "--help"]),
        (["--gpus", "8"], ["--gpus 8", "0 GPUs", "--gpus 0"]),
        (["--gpus", "-1"], ["--gpus -1 is negative", "0 for CPUs only"]),
        (["--states", "deep"], ["--states 'deep'", "mlp"]),
        (["--scores", "cosine"], ["--scores 'cosine'", "bilinear"]),
        (["--shards", "0"], ["--shards 0", "211"]),
        (["--address", "auto"], ["--address auto", "--in-process"]),
        (["--no-such-option"], ["--no-such-option"]),
    ],
)
def test_a_bad_request_is_one_line_with_limit_and_remedy(
    submit: Submit, random_model: Path, out: Path, arguments: list[str], named: list[str]
) -> None:
    code, printed, error = full_vocab(submit, random_model, *arguments)
    assert code == 2
    assert printed == ""
    assert error.startswith("submit: error: ")
    assert error.count("\n") == 1
    for text in named:
        assert text in error
    assert not out.exists()


def test_a_bad_model_is_one_line(submit: Submit, random_model: Path, tmp_path: Path, out: Path) -> None:
    def refused(model: Path | str) -> str:
        code, printed, error = full_vocab(submit, model, "--head", "L0H0")
        assert (code, printed, error.count("\n")) == (2, "", 1)
        assert not out.exists()
        return error

    assert "hub cannot be reached" in refused("no-such-model")
    assert "--model planted" in refused("gpt2")
    assert "neither a directory nor a hub name" in refused("bad name!")
    assert "is no directory" in refused(tmp_path / "absent")
    broken = Path(shutil.copytree(random_model, tmp_path / "broken"))
    weights = load_file(broken / "model.safetensors")
    weights["transformer.wte.weight"][7, 3] = torch.nan
    save_file(weights, broken / "model.safetensors")
    assert "wte.weight[7, 3] is nan" in refused(broken)
    (broken / "model.safetensors").unlink()
    assert "has no weights" in refused(broken)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(
        json.dumps({**config, "model_type": "opt", "architectures": ["OPTForCausalLM"]})
    )
    assert "OPTForCausalLM" in refused(broken)


def test_an_out_that_cannot_be_written_is_refused(submit: Submit, random_model: Path, out: Path) -> None:
    out.write_text("a file where the folder should be")
    code, _, error = full_vocab(submit, random_model)
    assert code == 2
    assert f"--out {out} cannot be written" in error
    assert out.read_text() == "a file where the folder should be"


def test_a_run_from_first_command_to_verify(submit: Submit, planted_tiny: Path, out: Path) -> None:
    code, printed, _ = full_vocab(submit, planted_tiny)
    assert code == 0
    (folder,) = out.iterdir()
    assert f"in {folder}: topk/**/*.parquet" in printed
    assert "·red" in printed
    assert "submit verify" in printed
    code, printed, _ = full_vocab(submit, planted_tiny)
    assert code == 0
    assert "finished before" in printed
    code, printed, error = full_vocab(submit, planted_tiny, "--quiet")
    assert (code, printed, error) == (0, "", "")

    code, printed, _ = submit("runs")
    assert printed.startswith(f"{folder.name}: complete, 1/1 shards, 3072 rows")
    code, printed, _ = submit("status", folder.name[-12:])
    assert "complete" in printed
    assert "head: L1H5" in printed
    code, printed, _ = submit("verify", "full-vocab")
    assert code == 0
    assert "sound, 3072 rows" in printed

    part = part_file(folder, "self/L1H5/part-00000")
    part.write_bytes(part.read_bytes()[:-1])
    code, printed, error = submit("verify", folder)
    assert code == 1
    assert f"self/L1H5/{part.name} has" in printed
    assert "submit the same request again" in error
    assert full_vocab(submit, planted_tiny)[0] == 0
    assert submit("verify", folder)[0] == 0


def test_reading_commands_refuse_what_is_not_there(submit: Submit) -> None:
    assert submit("runs")[1].startswith("no runs in")
    for command in ("status", "verify"):
        code, _, error = submit(command, "none")
        assert code == 2
        assert "'none' is not in" in error


def test_an_unfinished_run_is_no_run_to_verify(submit: Submit, out: Path) -> None:
    (out / "full-vocab-0123/_state").mkdir(parents=True)
    plan = {"run_id": "0123", "job": "full-vocab", "spec": {}, "model": {"weights_sha256": "w"}, "shards": []}
    (out / "full-vocab-0123/_state/plan.json").write_text(json.dumps(plan))
    code, _, error = submit("verify", "0123")
    assert code == 2
    assert "not finished" in error


def test_failed_shards_are_listed_with_exit_code_1(
    submit: Submit, random_model: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qkatlas.jobs.loop import work

    write_part = work.write_part

    def fails_once_full(folder: Path, path: str, table: object) -> object:
        if "part-00002" in path:
            raise OSError(28, "No space left on device", path)
        return write_part(folder, path, table)  # type: ignore[arg-type]

    monkeypatch.setattr(work, "write_part", fails_once_full)
    code, _, error = full_vocab(submit, random_model, "--shards", 4)
    assert code == 1
    assert "shard L1H5-000105-000158 was not computed: OSError: [Errno 28] No space left on device" in error
    assert "1 shards failed, tracebacks in" in error
    (log,) = out.rglob("failures.log")
    assert "fails_once_full" in log.read_text()
    assert "3/4 shards" in submit("runs")[1]


def test_a_full_disk_under_the_driver_is_exit_code_1(
    submit: Submit, random_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qkatlas.outputs.runs.journal import Journal

    append, count = Journal.append, iter(range(9))

    def full(journal: Journal, receipt: object) -> None:
        if next(count) == 2:
            raise OSError(28, "No space left on device")
        append(journal, receipt)  # type: ignore[arg-type]

    monkeypatch.setattr(Journal, "append", full)
    code, _, error = full_vocab(submit, random_model, "--shards", 4)
    assert code == 1
    assert "the disk is full" in error
    assert error.strip().count("submit: ") == 1
    assert "2/4 shards" in submit("runs")[1]


@pytest.mark.slow
def test_planted_models_are_written_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "model"
    assert run(["model", "planted", str(folder), "--size", "tiny", "--seed", "3", "--head", "L2H1"]) == 0
    assert "next: submit full-vocab --model" in capsys.readouterr().out
    truth = json.loads((folder / "truth.json").read_text())
    assert truth["heads"]["L2H1"] == "self-suppressing semantic"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(os.listdir(folder))
    for arguments, named in (
        ([str(folder)], "cannot be written"),
        ([str(tmp_path / "b"), "--size", "huge"], "huge"),
        ([str(tmp_path / "b"), "--head", "L0H1"], "L0H1"),
        ([str(tmp_path / "b"), "--noise", "-1"], "-1"),
    ):
        assert run(["model", "planted", *arguments]) == 2
        error = capsys.readouterr().err
        assert named in error
        assert error.count("\n") == 1
    assert not (tmp_path / "b").exists()


def test_no_model_directory_is_left_when_its_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qkatlas.outputs.places import model_directory

    def full(*arguments: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_directory, "save_file", full)
    assert run(["model", "planted", str(tmp_path / "model"), "--size", "tiny"]) == 2
    assert list(tmp_path.iterdir()) == []


def test_reading_commands_load_neither_torch_nor_ray(tmp_path: Path) -> None:
    program = (
        "import sys; from qkatlas.jobs.main import run; run(['runs', '--out', sys.argv[1]]);"
        "sys.exit(bool({'torch', 'ray', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False).returncode == 0


def test_a_folder_with_another_runs_results_is_not_taken_for_this_run(
    submit: Submit, random_model: Path, out: Path
) -> None:
    assert full_vocab(submit, random_model, "--head", "L1H1")[0] == 0
    (other,) = out.iterdir()
    assert full_vocab(submit, random_model, "--head", "L0H0")[0] == 0
    (own,) = [folder for folder in out.iterdir() if folder != other]
    expected = {file.relative_to(own): file.read_bytes() for file in own.rglob("*.parquet")}
    shutil.rmtree(own)
    shutil.copytree(other, own)
    assert "manifest.json is that of run" in submit("verify", own)[1]
    assert full_vocab(submit, random_model, "--head", "L0H0")[0] == 0
    found = {file.relative_to(own): file.read_bytes() for file in own.rglob("*.parquet") if "_state" not in str(file)}
    assert found == expected
    assert submit("verify", own)[0] == 0


@pytest.mark.parametrize("content", ["", "{", '{"parts": []}'])
@pytest.mark.parametrize("file", ["manifest.json", "_state/plan.json"])
def test_a_damaged_state_file_costs_no_shard(
    submit: Submit, random_model: Path, out: Path, file: str, content: str
) -> None:
    assert full_vocab(submit, random_model, "--shards", 3)[0] == 0
    (folder,) = out.iterdir()
    (folder / file).write_text(content)
    code, printed, _ = submit("runs")
    assert code == 0
    assert "damaged" in printed
    code, printed, _ = full_vocab(submit, random_model, "--shards", 3)
    assert code == 0
    assert "nothing had to be computed" in printed
    assert submit("verify", folder)[0] == 0


@pytest.mark.parametrize(("name", "value", "named"), [
    ("layer_norm_epsilon", -1, "layer_norm_epsilon -1"),
    ("n_head", 3.7, "n_head is 3.7"),
    ("quantization_config", {"bits": 8}, "quantised"),
])  # fmt: skip
def test_an_impossible_configuration_is_named(
    submit: Submit, random_model: Path, tmp_path: Path, out: Path, name: str, value: object, named: str
) -> None:
    folder = Path(shutil.copytree(random_model, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, name: value}))
    code, _, error = full_vocab(submit, folder)
    assert code == 2
    assert named in error
    assert not out.exists()


@pytest.mark.parametrize(("tensor", "factor", "named"), [
    ("transformer.h.1.attn.c_attn.weight", 1e25, "more than float32 can hold"),
    ("transformer.wte.weight", 1e30, "not finite in float32"),
])  # fmt: skip
def test_weights_whose_scores_overflow_are_refused_before_anything_is_written(
    submit: Submit, random_model: Path, tmp_path: Path, out: Path, tensor: str, factor: float, named: str
) -> None:
    folder = Path(shutil.copytree(random_model, tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    weights[tensor] *= factor
    save_file(weights, folder / "model.safetensors")
    code, _, error = full_vocab(submit, folder)
    assert code == 2
    assert named in error
    assert not out.exists()


def test_integer_weights_are_refused(submit: Submit, random_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(random_model, tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    weights["transformer.h.0.mlp.c_fc.weight"] = weights["transformer.h.0.mlp.c_fc.weight"].to(torch.int8)
    save_file(weights, folder / "model.safetensors")
    code, _, error = full_vocab(submit, folder)
    assert code == 2
    assert "I8 numbers" in error


@pytest.mark.slow
def test_paths_of_any_kind(random_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "w sp ünï 'q"
    program = "import sys; from qkatlas.jobs.main import main; main()"
    request = ["full-vocab", "--model", str(random_model), "--in-process", "--out", str(out)]
    odd = os.fsencode(str(tmp_path)) + b"/w\xff"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", program, *request[:-1], odd], env=environment, capture_output=True)
    assert done.returncode == 2
    assert b"is not UTF-8" in done.stderr
    assert not os.path.exists(odd)
    done = subprocess.run([sys.executable, "-c", program, *request], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    next_line = done.stdout.decode().splitlines()[-2]
    assert "submit verify" in next_line
    assert run(["runs", "--out", str(out)]) == 0
    assert run(["full-vocab", "--model", str(random_model), "--in-process", "--out", str(tmp_path / ("x" * 300))]) == 2


@pytest.mark.slow
def test_a_terminated_driver_says_so_and_keeps_its_shards(random_model: Path, tmp_path: Path) -> None:
    program = (
        "import os, signal; from qkatlas.jobs import main as cli\n"
        "from qkatlas.outputs.runs.journal import Journal; append = Journal.append\n"
        "def once(journal, receipt):\n    append(journal, receipt); os.kill(os.getpid(), signal.SIGTERM)\n"
        "Journal.append = once; cli.main()"
    )
    request = ["full-vocab", "--model", str(random_model), "--in-process", "--out", str(tmp_path), "--shards", "3"]
    done = subprocess.run([sys.executable, "-c", program, *request], capture_output=True, text=True)
    assert done.returncode == 128 + signal.SIGTERM
    assert done.stderr.strip().splitlines()[-1].startswith("submit: interrupted")
    assert "Traceback" not in done.stderr
