"""Jobs whose runs lie in an object store: the same tables as on a disk, whatever the store does meanwhile."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import polars
import pyarrow.dataset as ds
import pytest
from support.object_store import Server, every

from qkatlas.jobs.main import run
from qkatlas.outputs.places import lease
from qkatlas.outputs.places.object_folder import ObjectFolder
from qkatlas.outputs.places.open import open_folder
from qkatlas.outputs.runs import soundness, store
from qkatlas.outputs.runs.reader import read_rows, read_whole
from qkatlas.outputs.runs.run import Run

Submit = Callable[..., tuple[int, str, str]]
SHARDS = 3


@pytest.fixture
def out(store_server: Server) -> str:
    return store_server.uri(f"atlas/{uuid.uuid4().hex}/runs")


@pytest.fixture
def submit(out: str, capfd: pytest.CaptureFixture[str]) -> Submit:
    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run([*map(str, arguments), "--out", out])
        text = capfd.readouterr()
        return code, text.out, text.err

    return call


def request(model: Path, *arguments: object) -> list[str]:
    return ["full-vocab", "--model", str(model), "--in-process", "--shards", str(SHARDS), *map(str, arguments)]


def hashes(found: Run) -> dict[str, str]:
    return {path: found.folder.sha256(path) for path in found.folder.files() if path.endswith(".parquet")}


@pytest.fixture(scope="module")
def local(planted_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same request on a disk."""
    folder = tmp_path_factory.mktemp("local")
    assert run([*request(planted_tiny), "--quiet", "--out", str(folder)]) == 0
    (found,) = store.all_runs(folder)
    return found


def only_run(out: str) -> Run:
    (found,) = store.all_runs(open_folder(out))
    return found


def lease_key(server: Server, out: str) -> str:
    """The one lease below a prefix."""
    prefix = open_folder(out).path.partition("/")[2]
    leases = [key for key in server.keys("atlas") if key.startswith(prefix) and "/_state/drivers/" in key]
    (key,) = [key for key in leases if not key.endswith("/")]
    return key


@pytest.mark.slow
def test_a_run_from_first_command_to_report(
    submit: Submit, planted_tiny: Path, local: Run, out: str, store_server: Server, tmp_path: Path
) -> None:
    before = len(store_server.requests)
    code, printed, _ = submit(*request(planted_tiny))
    assert code == 0
    made = len(store_server.requests) - before
    found = only_run(out)
    assert hashes(found) == hashes(local)
    assert f"in {found.folder}: topk/**/*.parquet" in printed
    assert made < 70, f"{made} requests"  # 24 at the ends of a run and 3 a shard; a listing that grows shows here
    code, printed, _ = submit(*request(planted_tiny))
    assert "finished before" in printed
    assert submit("runs")[1].startswith(f"{found.folder.name}: complete, {SHARDS}/{SHARDS} shards")
    assert "head: L1H5" in submit("status", found.folder.name[-12:])[1]
    assert "sound" in submit("verify", found.folder)[1]

    code, printed, _ = submit("communities", found.folder.name, "--in-process", "--restarts", 1)
    assert code == 0
    assert run(["report", "communities", "--runs", out, "--out", str(tmp_path / "report.html")]) == 0
    assert (tmp_path / "report.html").stat().st_size > 100_000
    assert run(["report", "communities", "--runs", out, "--out", out]) == 2


@pytest.mark.slow
def test_the_command_that_is_printed_reads_the_table(submit: Submit, planted_tiny: Path) -> None:
    hint = submit(*request(planted_tiny))[1].strip().splitlines()[-1].strip()
    python, *arguments = shlex.split(hint)
    assert python == "python"
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "self_gap" in done.stdout
    assert "[10 rows x " in done.stdout


@pytest.mark.slow
def test_other_readers_need_no_code_of_ours(submit: Submit, planted_tiny: Path, local: Run, out: str) -> None:
    assert submit(*request(planted_tiny))[0] == 0
    folder = only_run(out).folder
    # What pyarrow removes leaves a marker of the folder, which no reader may take for a table.
    folder.write("topk/L1H5/stray.parquet", b"x")
    folder.move("topk/L1H5/stray.parquet", "_state/quarantine/stray.parquet")
    expected = ds.dataset(local.folder / "topk", partitioning="hive").to_table().sort_by("token_id")
    table = ds.dataset(f"{folder.path}/topk", filesystem=folder.filesystem, partitioning="hive").to_table()
    assert table.sort_by("token_id").equals(expected)
    address = out.partition("endpoint_override=")[2].partition("&")[0]
    where = f"s3://{folder.path}/topk"
    options = {"endpoint_url": f"http://{address}", "region": "us-east-1", "allow_http": "true"}
    keys = {"access_key_id": "test", "secret_access_key": "test"}
    rows = polars.read_parquet(f"{where}/**/*.parquet", storage_options={**options, **keys}).sort("token_id")
    assert rows["token_id"].to_list() == expected["token_id"].to_pylist()
    assert polars.read_parquet(f"{where}/", storage_options={**options, **keys}).height == len(expected)


@pytest.mark.cluster
def test_over_ray_workers_write_to_the_store_themselves(
    submit: Submit, planted_tiny: Path, local: Run, out: str
) -> None:
    arguments = [argument for argument in request(planted_tiny) if argument != "--in-process"]
    assert submit(*arguments, "--gpus", 0)[0] == 0
    assert hashes(only_run(out)) == hashes(local)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_passing_faults_cost_time_only(
    submit: Submit, planted_tiny: Path, local: Run, out: str, store_server: Server, seed: int
) -> None:
    with store_server.faults(every(0.12, ["500", "503", "reset", "unanswered", 0.3], seed=seed, in_a_row=2)):
        assert submit(*request(planted_tiny), "--quiet") == (0, "", "")
    assert hashes(only_run(out)) == hashes(local)
    assert soundness.faults(only_run(out)) == []


@pytest.mark.slow
def test_a_store_that_goes_away_is_exit_code_1_and_costs_nothing_committed(
    submit: Submit, planted_tiny: Path, local: Run, out: str, store_server: Server
) -> None:
    receipts = 0

    def gone(method: str, target: str) -> str | None:
        nonlocal receipts
        receipts += "_state/receipts/" in target and method == "PUT"
        return "reset" if receipts >= 2 else None

    with store_server.faults(gone):
        code, _, error = submit(*request(planted_tiny), "--quiet")
    assert code == 1
    assert "what was committed is kept, submit again" in error
    assert "Traceback" not in error
    code, printed, error = submit(*request(planted_tiny))
    assert code == 2
    assert "s if it was killed)" in error
    store_server.age("atlas", lease_key(store_server, out), lease.LEASE_SECONDS + 5)
    code, printed, error = submit(*request(planted_tiny))
    assert code == 0
    assert f"{SHARDS - 1} shards in" in printed
    assert hashes(only_run(out)) == hashes(local)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "place"),
    [(None, "no-such-bucket/runs"), ("403", "atlas/x/runs"), ("reset", "atlas/x/runs"), ("500", "atlas/x/runs")],
)
def test_a_store_that_cannot_be_used_is_one_line(
    planted_tiny: Path, store_server: Server, capfd: pytest.CaptureFixture[str], kind: str | None, place: str
) -> None:
    uri = store_server.uri(place)
    with store_server.faults(lambda method, target: kind):
        for command in (request(planted_tiny), ["runs"], ["status", "x"], ["verify", f"{uri}/x"]):
            capfd.readouterr()
            started = time.monotonic()
            assert run([*command, "--out", uri]) == 2
            assert time.monotonic() - started < 15
            error = capfd.readouterr().err
            assert error.count("\n") == 1
            assert "check the bucket, the endpoint and the credentials" in error or "x holds no run" in error


def test_an_endpoint_where_nothing_listens_is_one_line(planted_tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    uri = "s3://atlas/runs?endpoint_override=127.0.0.1:9&scheme=http"
    assert run([*request(planted_tiny), "--out", uri]) == 2
    assert time.monotonic() - started < 15
    assert "NETWORK_CONNECTION" in capfd.readouterr().err


@pytest.mark.slow
def test_a_driver_killed_before_the_manifest_leaves_no_run_to_read_and_loses_no_shard(
    submit: Submit, planted_tiny: Path, local: Run, out: str, store_server: Server
) -> None:
    program = (
        "import os, signal; from qkatlas.jobs import main as cli\n"
        "from qkatlas.outputs.places.object_folder import ObjectFolder\n"
        "write = ObjectFolder.write\n"
        "def killed(self, path, content):\n"
        "    os.kill(os.getpid(), signal.SIGKILL) if path == 'manifest.json' else write(self, path, content)\n"
        "ObjectFolder.write = killed; cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", program, *request(planted_tiny), "--out", out], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    found = only_run(out)
    assert found.manifest() is None
    with pytest.raises(ValueError, match="is not finished"):
        read_whole(found, "topk")
    with pytest.raises(ValueError, match="is not finished"):
        read_rows(found, "topk", [0])
    assert submit("runs")[1].startswith(f"{found.folder.name}: running, {SHARDS}/{SHARDS}")
    assert submit(*request(planted_tiny))[0] == 2
    store_server.age("atlas", lease_key(store_server, out), lease.LEASE_SECONDS + 5)
    assert submit("runs")[1].startswith(f"{found.folder.name}: incomplete, {SHARDS}/{SHARDS}")
    code, printed, _ = submit(*request(planted_tiny))
    assert code == 0
    assert "nothing had to be computed" in printed
    assert hashes(found) == hashes(local)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["prepare", "reduce"])
def test_a_driver_that_slept_undoes_nothing_of_the_one_that_took_over(
    submit: Submit,
    planted_tiny: Path,
    local: Run,
    out: str,
    store_server: Server,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    """As if the first driver, or its machine, were suspended for longer than its lease lasts."""
    from qkatlas.jobs.full_vocab.job import FullVocabJob

    awake, slept, original = lease._now, 0.0, getattr(FullVocabJob, step)
    monkeypatch.setattr(lease, "_now", lambda: awake() + slept)
    ends: list[int] = []

    def sleeping(job: FullVocabJob, *arguments: object) -> object:
        nonlocal slept
        if not slept:
            store_server.age("atlas", lease_key(store_server, out), lease.LEASE_SECONDS + 5)
            slept = lease.LEASE_SECONDS + 5
            ends.append(run([*request(planted_tiny), "--quiet", "--out", out]))
            ends.append(len(store_server.requests))
        return original(job, *arguments)

    monkeypatch.setattr(FullVocabJob, step, sleeping)
    code, _, error = submit(*request(planted_tiny), "--quiet")
    assert code == 1
    assert "another may be at work" in error
    assert ends[0] == 0
    changes = [target for method, target in store_server.requests[ends[1] :] if method not in ("GET", "HEAD")]
    assert [target for target in changes if "/_state/drivers/" not in target] == []
    found = only_run(out)
    assert store.status(found).state == "complete"
    assert hashes(found) == hashes(local)


@pytest.mark.slow
def test_an_object_that_is_gone_cut_or_strange_is_repaired_by_submitting_again(
    submit: Submit, planted_tiny: Path, local: Run, out: str
) -> None:
    assert submit(*request(planted_tiny))[0] == 0
    found = only_run(out)
    one, two, *_ = sorted(path for path in found.folder.files() if path.startswith("topk/"))
    assert isinstance(found.folder, ObjectFolder)
    found.folder.remove(one)
    found.folder.write(two, found.folder.read(two)[:-1])
    found.folder.write("topk/L1H5/stray.parquet", b"stray")
    code, printed, error = submit("verify", found.folder)
    assert code == 1
    assert [line.split()[0] for line in printed.splitlines()] == [one, two, "topk/L1H5/stray.parquet"]
    assert "submit the same request again to repair it" in error
    assert "damaged" in submit("runs")[1]
    code, printed, _ = submit(*request(planted_tiny))
    assert code == 0
    assert "2 shards in" in printed
    assert submit("verify", found.folder)[0] == 0
    assert hashes(found) == hashes(local)


@pytest.mark.slow
def test_the_remedy_of_verify_works_for_an_object_with_other_content(
    submit: Submit, planted_tiny: Path, local: Run, out: str
) -> None:
    assert submit(*request(planted_tiny))[0] == 0
    found = only_run(out)
    assert isinstance(found.folder, ObjectFolder)
    path = max(path for path in found.folder.files() if path.startswith("self/"))
    content = bytearray(found.folder.read(path))
    content[len(content) // 2] ^= 1
    found.folder.write(path, bytes(content))
    code, printed, error = submit("verify", found.folder)
    assert (code, printed) == (1, f"{path} has other content than was committed\n")
    assert "remove the objects with other content, then submit the same request again" in error
    with pytest.raises(ValueError, match="has other content"):
        read_whole(found, "self")
    found.folder.remove(path)
    assert submit(*request(planted_tiny))[0] == 0
    assert submit("verify", found.folder)[0] == 0
    assert hashes(found) == hashes(local)


def test_a_request_that_comes_to_nothing_leaves_no_object(
    planted_tiny: Path, tmp_path: Path, store_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qkatlas.jobs.full_vocab.job import FullVocabJob

    def impossible(*arguments: object) -> None:
        raise ValueError("its scores overflow")

    monkeypatch.setattr(FullVocabJob, "prepare", impossible)
    store_server.make_bucket("bare")
    assert run([*request(planted_tiny), "--out", store_server.uri("bare")]) == 2
    assert store_server.keys("bare") == []
    assert run([*request(planted_tiny), "--out", store_server.uri("bare/runs")]) == 2
    assert store_server.keys("bare") == ["runs/"]  # the marker that pyarrow leaves of --out itself


@pytest.mark.slow
def test_nothing_in_a_run_names_a_credential(
    submit: Submit, planted_tiny: Path, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2hunter2")
    assert submit(*request(planted_tiny))[0] == 0
    folder = only_run(out).folder
    assert isinstance(folder, ObjectFolder)
    assert not [path for path in folder.listed("") if b"hunter2" in folder.read(path)]
    manifest = json.loads(folder.read("manifest.json"))
    part = manifest["parts"][-1]
    assert hashlib.sha256(folder.read(part["path"])).hexdigest() == part["sha256"]
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "hunter2hunter2"
