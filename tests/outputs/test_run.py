"""Run folders: one driver, a fixed plan, and a manifest that only a whole run has."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pyarrow as pa
import pytest

from outputs import store
from outputs.journal import Receipt
from outputs.lock import RunIsBusyError
from outputs.part import write_part
from outputs.run import Run
from outputs.shard import Shard

REQUEST = {"run_id": "abc", "job": "test", "spec": {}, "model": {"weights_sha256": "w"}}
SHARDS = [Shard(f"s{number}", "g", {"start": number, "stop": number + 1}) for number in range(3)]


def compute(run: Run, shard: Shard, inputs: str = "i", value: float = 1.0) -> Receipt:
    table = pa.table({"token_id": pa.array([shard.bounds["start"]], pa.int32()), "score": [value]})
    part = write_part(run.folder, f"topk/layer=0/head=0/part-{shard.bounds['start']:05d}.parquet", table)
    return Receipt(shard=shard.name, inputs=inputs, parts=(part,))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "test-abc")


def finish(run: Run) -> None:
    with run.driving():
        shards = run.plan_or_load(REQUEST, SHARDS)
        for shard in run.missing(shards):
            run.record(compute(run, shard))
        run.commit(REQUEST, shards, [])


def test_opening_writes_nothing(run: Run) -> None:
    assert not run.exists()
    assert run.manifest() is None
    assert not run.folder.exists()


def test_a_run_is_complete_only_with_its_manifest(run: Run, tmp_path: Path) -> None:
    with run.driving():
        shards = run.plan_or_load(REQUEST, SHARDS)
        assert run.missing(shards) == SHARDS
        run.record(compute(run, SHARDS[1]))
        assert [shard.name for shard in run.missing(shards)] == ["s0", "s2"]
        assert store.status(run).state == "running"
    state = store.status(Run(run.folder))
    assert (state.state, state.done, state.shards, state.rows) == ("incomplete", 1, 3, 1)
    finish(run)
    state = store.status(Run(run.folder))
    assert (state.state, state.done, state.shards, state.rows) == ("complete", 3, 3, 3)
    assert store.faults(run) == []
    assert [found.folder for found in store.all_runs(tmp_path)] == [run.folder]


def test_the_first_plan_holds(run: Run) -> None:
    with run.driving():
        run.plan_or_load(REQUEST, SHARDS)
    with run.driving():
        assert run.plan_or_load(REQUEST, SHARDS[:1]) == SHARDS
        with pytest.raises(ValueError, match="holds run abc"):
            run.plan_or_load({**REQUEST, "run_id": "other"}, SHARDS)


def test_parts_from_other_inputs_do_not_stand_beside_new_ones(run: Run) -> None:
    with run.driving():
        shards = run.plan_or_load(REQUEST, SHARDS)
        run.record(compute(run, SHARDS[0], "old"))
        run.record(compute(run, SHARDS[1], "old"))
        assert [shard.name for shard in run.missing(shards)] == ["s2"]
        run.record(compute(run, SHARDS[2], "new"))
        assert [shard.name for shard in run.missing(shards)] == ["s0", "s1"]


def test_files_the_run_did_not_write_are_reported_and_set_aside(run: Run) -> None:
    finish(run)
    stray = run.folder / "topk/layer=0/head=0/part-00099.parquet"
    stray.write_bytes(b"not ours")
    assert store.faults(run) == ["topk/layer=0/head=0/part-00099.parquet was not written by the run"]
    finish(run)
    assert not stray.exists()
    assert [file.read_bytes() for file in (run.folder / "_state/quarantine").iterdir()] == [b"not ours"]
    assert store.faults(run) == []


def test_a_part_changed_before_the_commit_stops_it(run: Run) -> None:
    with run.driving():
        shards = run.plan_or_load(REQUEST, SHARDS)
        receipts = [compute(run, shard) for shard in shards]
        for receipt in receipts:
            run.record(receipt)
        (run.folder / receipts[1].parts[0].path).write_bytes(b"x")
        with pytest.raises(OSError, match="changed while the run was finished"):
            run.commit(REQUEST, shards, [])
    assert run.manifest() is None


def test_leftovers_of_a_killed_writer_are_removed(run: Run) -> None:
    with run.driving():
        compute(run, SHARDS[0])
    leftover = run.folder / "topk/layer=0/head=0/.part-00000.parquet.0f.tmp"
    leftover.write_bytes(b"half")
    with run.driving():
        assert not leftover.exists()


def test_a_broken_manifest_or_plan_is_a_clear_error(run: Run) -> None:
    finish(run)
    run.manifest_file.write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json is no manifest"):
        run.manifest()
    (run.folder / "_state/plan.json").write_text(json.dumps({"run_id": "abc"}))
    with pytest.raises(ValueError, match="cannot be read"):
        run.plan()


def _hold(folder: Path, held: multiprocessing.synchronize.Event) -> None:
    with Run(folder).driving():
        held.set()
        time.sleep(60)


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
    for name in (str(run.folder), "test-abc", "test", "abc", "ab"):
        assert store.find(tmp_path, name).folder == run.folder
    with run.driving():
        Run(tmp_path / "test-abd").folder.joinpath("_state").mkdir(parents=True)
        (tmp_path / "test-abd/_state/plan.json").write_text("{}")
    with pytest.raises(ValueError, match="fits 2 runs"):
        store.find(tmp_path, "ab")
    with pytest.raises(ValueError, match="is not in"):
        store.find(tmp_path, "zzz")
