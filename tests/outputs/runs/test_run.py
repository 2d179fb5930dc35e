"""Run folders: one driver, a fixed plan, and a manifest that only a whole run has."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from qkatlas.outputs.places.lock import RunIsBusyError
from qkatlas.outputs.runs import soundness, store
from qkatlas.outputs.runs.identity import identify
from qkatlas.outputs.runs.journal import Receipt
from qkatlas.outputs.runs.part import write_part
from qkatlas.outputs.runs.run import DamagedRunError, Run
from qkatlas.outputs.runs.shard import Shard

REQUEST = identify("test", {}, {"weights_sha256": "w"})
RUN_ID = REQUEST.run_id
SHARDS = [Shard(f"s{number}", "g", {"start": number, "stop": number + 1}) for number in range(3)]


def manifest_file(run: Run) -> Path:
    return Path(run.folder) / "manifest.json"


def whole(shards: Sequence[Shard]) -> bool:
    return len(shards) == 3


def compute(run: Run, shard: Shard, inputs: str = "i", value: float = 1.0) -> Receipt:
    table = pa.table({"token_id": pa.array([shard.bounds["start"]], pa.int32()), "score": [value]})
    part = write_part(run.folder, f"topk/L0H0/part-{shard.bounds['start']:05d}.parquet", table)
    return Receipt(shard=shard.name, inputs=inputs, parts=(part,))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / f"test-{RUN_ID}")


def finish(run: Run) -> None:
    with run.driving():
        shards = run.plan_or_load(REQUEST, SHARDS, whole)
        for shard in run.missing(shards):
            run.record(compute(run, shard))
        run.commit(REQUEST, shards, [])


def test_opening_writes_nothing(run: Run) -> None:
    assert not run.exists()
    assert run.manifest() is None
    assert not Path(run.folder).exists()


def test_a_run_is_complete_only_with_its_manifest(run: Run, tmp_path: Path) -> None:
    with run.driving():
        shards = run.plan_or_load(REQUEST, SHARDS, whole)
        assert run.missing(shards) == SHARDS
        run.record(compute(run, SHARDS[1]))
        assert [shard.name for shard in run.missing(shards)] == ["s0", "s2"]
        assert store.status(run).state == "running"
    state = store.status(Run(run.folder))
    assert (state.state, state.done, state.shards, state.rows) == ("incomplete", 1, 3, 1)
    finish(run)
    state = store.status(Run(run.folder))
    assert (state.state, state.done, state.shards, state.rows) == ("complete", 3, 3, 3)
    assert soundness.faults(run) == []
    assert [found.folder for found in store.all_runs(tmp_path)] == [run.folder]


def test_the_first_plan_holds(run: Run) -> None:
    with run.driving():
        run.plan_or_load(REQUEST, SHARDS, whole)
    with run.driving():
        assert run.plan_or_load(REQUEST, SHARDS[:1], whole) == SHARDS


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"shards": 3}', "of another run", "of fewer shards"])
def test_a_plan_that_cannot_be_used_is_set_aside_and_its_receipts_kept(run: Run, damage: str) -> None:
    with run.driving():
        shards = run.plan_or_load(REQUEST, SHARDS, whole)
        run.record(compute(run, shards[1]))
    file = Path(run.folder) / "_state/plan.json"
    plan = json.loads(file.read_text())
    if damage == "of another run":
        other = identify("test", {"other": 1}, {"weights_sha256": "w"})
        damage = json.dumps({**plan, **other.as_json()})
    elif damage == "of fewer shards":
        damage = json.dumps({**plan, "shards": plan["shards"][:2]})
    file.write_text(damage)
    with run.driving():
        assert run.plan_or_load(REQUEST, SHARDS, whole) == SHARDS
        assert [shard.name for shard in run.missing(SHARDS)] == ["s0", "s2"]
    assert len(list((Path(run.folder) / "_state/quarantine").iterdir())) == 1


def test_parts_from_other_inputs_do_not_stand_beside_new_ones(run: Run) -> None:
    with run.driving():
        shards = run.plan_or_load(REQUEST, SHARDS, whole)
        run.record(compute(run, SHARDS[0], "old"))
        run.record(compute(run, SHARDS[1], "old"))
        assert [shard.name for shard in run.missing(shards)] == ["s2"]
        run.record(compute(run, SHARDS[2], "new"))
        assert [shard.name for shard in run.missing(shards)] == ["s0", "s1"]


def test_files_the_run_did_not_write_are_reported_and_set_aside(run: Run) -> None:
    finish(run)
    stray = Path(run.folder) / "topk/L0H0/part-00099.parquet"
    stray.write_bytes(b"not ours")
    assert soundness.faults(run) == ["topk/L0H0/part-00099.parquet was not written by the run"]
    finish(run)
    assert not stray.exists()
    assert [file.read_bytes() for file in (Path(run.folder) / "_state/quarantine").iterdir()] == [b"not ours"]
    assert soundness.faults(run) == []


def test_a_part_changed_before_the_commit_stops_it(run: Run) -> None:
    with run.driving():
        shards = run.plan_or_load(REQUEST, SHARDS, whole)
        receipts = [compute(run, shard) for shard in shards]
        for receipt in receipts:
            run.record(receipt)
        (Path(run.folder) / receipts[1].parts[0].path).write_bytes(b"x")
        with pytest.raises(OSError, match="changed while the run was finished"):
            run.commit(REQUEST, shards, [])
    assert run.manifest() is None


def test_leftovers_of_a_killed_writer_are_removed(run: Run) -> None:
    with run.driving():
        compute(run, SHARDS[0])
    leftover = Path(run.folder) / "topk/L0H0/.part-00000.parquet.0f.tmp"
    leftover.write_bytes(b"half")
    with run.driving():
        assert not leftover.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"parts": []}', '{"run_id": 1, "parts": [], "shards": []}', None])
def test_a_broken_manifest_is_no_manifest_and_the_run_shows_as_damaged(run: Run, content: str | None) -> None:
    finish(run)
    manifest_file(run).unlink()
    if content is None:
        manifest_file(run).mkdir()
    else:
        manifest_file(run).write_text(content)
    with pytest.raises(DamagedRunError, match=r"manifest\.json is damaged"):
        run.manifest()
    assert store.status(run).state == "damaged"


def test_a_manifest_under_another_name_is_a_fault(run: Run, tmp_path: Path) -> None:
    finish(run)
    moved = Path(run.folder).rename(tmp_path / "test-0123456789ab")
    assert soundness.faults(Run(moved)) == [f"manifest.json is that of run {RUN_ID}"]


def test_a_truncated_part_shows_in_the_status(run: Run) -> None:
    finish(run)
    part = next(Path(run.folder).rglob("part-*.parquet"))
    part.write_bytes(part.read_bytes()[:10])
    assert store.status(run).state == "damaged"


def test_a_shard_may_have_all_its_results_in_its_receipt(run: Run) -> None:
    with run.driving():
        run.plan_or_load(REQUEST, SHARDS, whole)
        run.record(Receipt(shard="s0", inputs="i", parts=(), summary={"mean": 0.5}))
    with run.driving():
        assert Run(run.folder).missing(SHARDS) == SHARDS[1:]
        assert run.receipts()["s0"].summary == {"mean": 0.5}


def test_a_folder_in_the_place_of_a_part_is_set_aside(run: Run) -> None:
    finish(run)
    part = next(Path(run.folder).rglob("part-*.parquet"))
    part.unlink()
    part.mkdir()
    (part / "file").touch()
    finish(Run(run.folder))
    assert soundness.faults(run) == []
    (aside,) = (Path(run.folder) / "_state/quarantine").iterdir()
    finish(Run(run.folder))
    assert list((Path(run.folder) / "_state/quarantine").iterdir()) == [aside]


def test_a_request_that_comes_to_nothing_leaves_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path / "new" / "runs" / f"test-{RUN_ID}")

    def plan_and_fail() -> None:
        with run.driving():
            run.plan_or_load(REQUEST, SHARDS, whole)
            raise ValueError("cannot be met")

    with pytest.raises(ValueError, match="cannot be met"):
        plan_and_fail()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "new").mkdir()
    with pytest.raises(OSError, match="too long"), Run(tmp_path / "new" / "a" / ("x" * 300)).driving():
        pass
    assert list((tmp_path / "new").iterdir()) == []


def _hold(folder: Path, held: multiprocessing.synchronize.Event) -> None:
    with Run(folder).driving():
        held.set()
        time.sleep(60)


@pytest.mark.slow
def test_a_second_driver_is_refused_and_a_killed_one_frees_the_run(run: Run) -> None:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    driver = context.Process(target=_hold, args=(run.folder, held))
    driver.start()
    assert held.wait(30)
    assert run.is_running()
    with pytest.raises(RunIsBusyError, match=f"process {driver.pid} on"), run.driving():
        pass
    assert driver.pid is not None
    os.kill(driver.pid, signal.SIGKILL)
    driver.join()
    assert not run.is_running()
    with run.driving():
        pass


def test_runs_are_found_by_path_name_and_unique_beginning(run: Run, tmp_path: Path) -> None:
    finish(run)
    for name in (str(run.folder), run.folder.name, "test", RUN_ID, RUN_ID[:3]):
        assert store.find(tmp_path, name).folder == run.folder
    (tmp_path / f"test-{RUN_ID[:3]}/_state").mkdir(parents=True)
    (tmp_path / f"test-{RUN_ID[:3]}/_state/plan.json").write_text("{}")
    with pytest.raises(ValueError, match="fits 2 runs"):
        store.find(tmp_path, RUN_ID[:3])
    with pytest.raises(ValueError, match="is empty"):
        store.find(tmp_path, "")
    with pytest.raises(ValueError, match="is not in"):
        store.find(tmp_path, "zzz")
