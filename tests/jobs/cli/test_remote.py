"""Remote submission: a real head with a dashboard that asks for a token, and commands of another environment."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.head import TOKEN, Head, start_head
from support.interruptions import hashes

from qkatlas.jobs.main import run
from qkatlas.outputs.runs import store
from qkatlas.outputs.runs.provenance import note
from qkatlas.outputs.runs.run import Run

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with start_head(tmp_path_factory.mktemp("home")) as started:
        yield started


def only_run(out: Path) -> Run:
    (run,) = store.all_runs(out)
    return run


def submit_here(job: str, model: Path, out: Path, *arguments: object) -> None:
    """Submit the same job without a cluster."""
    request = [job, "--model", model, "--out", out, "--in-process", "--quiet", *arguments]
    assert run([str(argument) for argument in request]) == 0


def test_a_cluster_runs_the_same_job_from_the_code_that_was_sent(
    head: Head, planted_tiny: Path, tmp_path: Path
) -> None:
    code, printed, error = head.submit("full-vocab", tmp_path / "there", "--shards", "4", "--top-k", "7")
    assert code == 0, error
    assert "4/4 shards" in printed
    assert "·red" in printed
    assert "Running entrypoint" not in printed
    assert re.fullmatch(rf"job qkatlas-full-vocab-\w+ is with {head.address} \(package of \d\.\d MB\)\n", error)
    assert not Path(head.user["QKATLAS_CACHE"]).exists()  # the model is opened by the cluster alone

    submit_here("full-vocab", planted_tiny, tmp_path / "here", "--shards", "4", "--top-k", "7")
    there, expected = only_run(tmp_path / "there"), only_run(tmp_path / "here")
    assert there.folder.name == expected.folder.name
    assert hashes(there) == hashes(expected)
    assert len(hashes(there)) == 9
    manifest = there.manifest()
    assert manifest is not None
    assert "/_ray_pkg_" in manifest.provenance.argv[0]
    assert manifest.provenance.as_json()["code"] == json.loads(note())["code"]
    assert manifest.provenance.versions.items() >= json.loads(note())["versions"].items()


def test_failures_and_refusals_arrive_as_they_are(head: Head, planted_tiny: Path, tmp_path: Path) -> None:
    code, printed, _ = head.submit("full-vocab", tmp_path / "runs", "--head", "L99H0")
    assert code == 2
    assert "submit: error: head L99H0 is outside the model" in printed
    assert not (tmp_path / "runs").exists()

    submit_here("full-vocab", planted_tiny, tmp_path / "here")
    folder = tmp_path / "runs" / only_run(tmp_path / "here").folder.name
    folder.mkdir(parents=True)
    (folder / "topk").touch()  # a file where the run's first table should be
    code, printed, _ = head.submit("full-vocab", tmp_path / "runs", "--shards", "2")
    assert code == 1
    assert printed.count("was not computed: NotADirectoryError") == 2
    assert "2 shards failed" in printed
    failures = (folder / "_state/failures.log").read_text()
    assert re.search(r"/_ray_pkg_\w+/qkatlas/jobs/", failures)  # workers run what was sent, too


def test_a_detached_job_is_listed_followed_and_stopped(head: Head, tmp_path: Path) -> None:
    code, printed, error = head.submit("full-vocab", tmp_path, "--shards", "1024", "--detach")
    assert code == 0
    job = printed.removesuffix("\n")
    assert re.fullmatch(r"qkatlas-full-vocab-\w+", job)
    assert f"next: submit logs {job} --address {head.address} --follow\n" in error

    there = {"RAY_API_SERVER_ADDRESS": head.address}
    follower = head.start("logs", job, "--follow", **there)
    assert follower.stdout is not None
    assert "/1024 shards" in follower.stdout.readline()
    follower.send_signal(signal.SIGINT)
    _, error = follower.communicate(timeout=30)
    assert follower.returncode == 130
    assert error.startswith(f"submit: job {job} goes on; ")
    assert error.count("\n") == 1

    code, printed, _ = head.run("jobs", **there)
    (line,) = (line for line in printed.splitlines() if line.startswith(job))
    assert ": RUNNING, started " in line
    assert f"submit full-vocab --shards 1024 --model planted-tiny --gpus 0 --out {tmp_path}" in line
    assert head.run("stop", job, **there) == (0, f"{job} has ended: STOPPED\n", "")
    assert head.run("stop", job, **there) == (0, f"{job} has ended before: STOPPED\n", "")
    code, printed, _ = head.run("logs", job, **there)
    assert code == 0
    assert printed.startswith("1/1024 shards")
    code, _, error = head.run("logs", job, "--follow", **there)
    assert (code, error.count("\n")) == (1, 1)
    assert f"job {job} was stopped; committed shards are kept" in error
    left = store.status(only_run(tmp_path))
    assert left.state == "incomplete"
    assert 0 < left.done < 1024


def test_files_that_options_name_travel(head: Head, planted_tiny: Path, tmp_path: Path) -> None:
    texts = list(json.loads((planted_tiny / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"])
    counts = tmp_path / "it's $(touch here); a list.csv"
    rows = [f"{token_id},{2000 - token_id},x" for token_id in range(0, len(texts), 7)]
    counts.write_text("id,count,token\n" + "\n".join(rows))
    options = ("--frequencies", counts, "--most-frequent", "50", "--bins", "8")
    assert head.submit("similarity", tmp_path / "there", *options, "--quiet") == (0, "", "")
    submit_here("similarity", planted_tiny, tmp_path / "here", *options)
    assert hashes(only_run(tmp_path / "there")) == hashes(only_run(tmp_path / "here"))


def test_the_token_is_asked_for_and_sent(head: Head, planted_tiny: Path, tmp_path: Path) -> None:
    address = ("--address", head.address)
    for command, environment, reason in (
        (("full-vocab", "--out", tmp_path), {"RAY_AUTH_MODE": "disabled"}, "none was sent"),
        (("jobs",), {"RAY_AUTH_TOKEN": "another" * 5}, "it is not the one sent"),
        (("jobs",), {"RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": ""}, "none is here"),
    ):
        code, printed, error = head.run(*command, *address, **environment)
        assert (code, printed, error.count("\n")) == (2, "", 1)
        assert f"asks for the cluster's token ({reason}); set RAY_AUTH_MODE=token" in error
    token = tmp_path / "token"
    token.write_text(TOKEN)
    assert head.run("jobs", *address, RAY_AUTH_TOKEN="", RAY_AUTH_TOKEN_PATH=str(token))[0] == 0

    join = ("full-vocab", "--model", planted_tiny, "--out", tmp_path / "runs", "--gpus", "0", "--address", head.join)
    code, printed, error = head.run(*join)
    assert code == 0, error
    assert "1 shards in" in printed


def test_an_unknown_job_is_one_line(head: Head) -> None:
    for job in ("none", "../version"):
        code, printed, error = head.run("logs", job, "--address", head.address)
        assert (code, printed, error.count("\n")) == (2, "", 1)
        assert "submit jobs" in error
