"""The loop itself, with toy jobs in this process: order, staleness, failures, resume."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.interruptions import Stopping, hashes
from support.part_files import part_file
from support.toy_jobs import EVENTS, Counting, Numbers, Sum, Toy, ToyJob, compute, values, write_apart, write_number

from qkatlas.cluster.executor import ClusterLostError, Grant
from qkatlas.cluster.in_process import InProcessExecutor
from qkatlas.jobs.loop.clock import Clock
from qkatlas.jobs.loop.progress import Progress
from qkatlas.jobs.loop.step import AnyStep, Context, Produced, Step, stages
from qkatlas.outputs.runs import soundness
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.shard import Shard

SHARDS = ["number-0", "number-1", "number-2", "apart-0", "product-0", "product-1"]


@pytest.fixture(autouse=True)
def _no_events() -> None:
    EVENTS.clear()


def manifest_of(run: Run) -> dict[str, Any]:
    return json.loads((Path(run.folder) / "manifest.json").read_text())


def damage(run: Run, part: str) -> None:
    part_file(run.folder, part).write_bytes(b"")


def test_steps_that_wait_for_none_of_their_stage_share_it() -> None:
    def step(kind: str, *after: AnyStep) -> AnyStep:
        return Step(kind=kind, shards=[], share=lambda _: None, each=lambda _: None, compute=write_number, after=after)

    a = step("a")
    b = step("b")
    c = step("c", a)
    d = step("d", a)
    e = step("e", d)
    f = step("f", b)
    named = [[step.kind for step in stage] for stage in stages([a, b, c, d, e, f])]
    assert named == [["a", "b"], ["c", "d"], ["e", "f"]]
    assert stages([]) == []


def test_a_step_is_shared_while_the_one_before_is_computed_and_waits_for_what_it_stands_on(tmp_path: Path) -> None:
    executor = Counting()
    result = compute(ToyJob(), tmp_path, executor)
    assert list(EVENTS) == [
        "notes", "share numbers", *SHARDS[:3], "share apart", "apart-0", "share sum", *SHARDS[4:], "finished",
    ]  # fmt: skip
    assert executor.maps == [SHARDS[:4], SHARDS[4:]]
    assert executor.puts == 3
    assert result.computed == 6
    assert values(result.run, "numbers") == [0, 10, 20]
    assert values(result.run, "products") == [30, 60]


def test_a_run_lists_its_parts_and_what_each_shard_was_made_from_and_cost(tmp_path: Path) -> None:
    run = compute(ToyJob(per_device=True), tmp_path, seed=7).run
    manifest = manifest_of(run)
    paths = [part["path"] for part in manifest["parts"]]
    assert [path.rpartition("-")[0] or path for path in paths] == [
        "sum.parquet", *(f"numbers/part-0000{part}" for part in range(3)), "products/part-00000", "products/part-00001",
    ]  # fmt: skip
    assert soundness.faults(run) == []
    shards = {shard["name"]: shard for shard in manifest["shards"]}
    assert list(shards) == [*SHARDS[:4], *SHARDS[4:]]
    assert [shard["kind"] for shard in shards.values()] == ["number"] * 3 + ["apart"] + ["product"] * 2
    digests = {shard["kind"]: shard["inputs_sha256"] for shard in shards.values()}
    assert digests["number"].endswith(" cpu")
    assert " " not in digests["product"]
    assert len(set(digests.values())) == 3
    cost = shards["product-0"]["measures"]
    assert {"seconds", "writing_seconds", "peak_memory_mb", "device", "cpus"} <= set(cost)
    assert 0 <= cost["writing_seconds"] <= cost["seconds"]
    assert (cost["device"], shards["number-0"]["measures"]["device"]) == ("cpu", "abacus")
    provenance = manifest["provenance"]
    assert (provenance["model"], provenance["seed"]) == ("toy", 7)
    assert provenance["devices"] == ["abacus", "cpu"]


def test_a_finished_run_starts_nothing_and_is_finished_again(tmp_path: Path) -> None:
    class Forbidden(InProcessExecutor):
        def start(self, grant: Grant) -> None:
            raise AssertionError("a finished run needs no executor")

    first = compute(ToyJob(), tmp_path)
    EVENTS.clear()
    again = compute(ToyJob(), tmp_path, Forbidden())
    assert (again.computed, again.failures, EVENTS) == (0, {}, ["notes", "finished"])
    assert hashes(again.run) == hashes(first.run)


@pytest.mark.parametrize("shards", range(6))
def test_a_stopped_run_is_resumed_where_it_was(tmp_path: Path, shards: int) -> None:
    whole = compute(ToyJob(), tmp_path / "whole").run
    with pytest.raises(KeyboardInterrupt):
        compute(ToyJob(), tmp_path / "runs", Stopping(shards))
    EVENTS.clear()
    result = compute(ToyJob(), tmp_path / "runs")
    assert [event for event in EVENTS if event in SHARDS] == SHARDS[shards:]
    assert result.computed == 6 - shards
    assert hashes(result.run) == hashes(whole)


@pytest.mark.parametrize("shards", range(6))
@pytest.mark.parametrize("one_group", [False, True])
def test_shards_of_other_bits_never_stand_together(tmp_path: Path, shards: int, one_group: bool) -> None:
    """As if the run were begun on another machine, whose arithmetic differs in the last bit."""
    whole = compute(ToyJob(bits=7, one_group=one_group), tmp_path / "whole").run
    with pytest.raises(KeyboardInterrupt):
        compute(ToyJob(bits=0, one_group=one_group), tmp_path / "runs", Stopping(shards))
    result = compute(ToyJob(bits=7, one_group=one_group), tmp_path / "runs")
    assert result.failures == {}
    begun_anew = not 3 <= shards <= 5 or one_group  # else all numbers are there, and hold as they are
    assert values(result.run, "numbers") == ([7, 17, 27] if begun_anew else [0, 10, 20])
    assert values(result.run, "products") == ([51, 102] if begun_anew else [30, 60])
    if begun_anew:
        assert hashes(result.run) == hashes(whole)


def test_a_damaged_part_is_computed_again_and_nothing_that_still_holds(tmp_path: Path) -> None:
    run = compute(ToyJob(), tmp_path).run
    before = hashes(run)
    damage(run, "numbers/part-00001")
    EVENTS.clear()
    assert compute(ToyJob(), tmp_path).computed == 1
    assert EVENTS == ["notes", "share numbers", "number-1", "share sum", "finished"]
    assert hashes(run) == before


def test_a_step_is_computed_again_where_the_one_before_came_to_other_results(tmp_path: Path) -> None:
    whole = compute(ToyJob(bits=7), tmp_path / "whole").run
    run = compute(ToyJob(), tmp_path / "runs").run
    damage(run, "numbers/part-00001")
    EVENTS.clear()
    result = compute(ToyJob(bits=7), tmp_path / "runs")
    assert [event for event in EVENTS if event in SHARDS] == [*SHARDS[:3], *SHARDS[4:]]
    assert result.computed == 5
    assert hashes(run) == hashes(whole)
    assert soundness.faults(run) == []


def test_a_driver_that_ends_between_two_steps_leaves_no_stale_shard_unseen(tmp_path: Path) -> None:
    """The number is new, the products are all there, and stand on the old one."""
    spec = Toy(count=1)
    whole = compute(ToyJob(spec, bits=7), tmp_path / "whole").run
    run = compute(ToyJob(spec), tmp_path / "runs").run
    damage(run, "numbers/part-00000")
    with pytest.raises(KeyboardInterrupt):
        compute(ToyJob(spec, bits=7), tmp_path / "runs", Stopping(1))
    EVENTS.clear()
    result = compute(ToyJob(spec, bits=7), tmp_path / "runs")
    assert EVENTS == ["notes", "share sum", "product-0", "product-1", "finished"]
    assert result.computed == 2
    assert hashes(run) == hashes(whole)
    assert values(run, "products") == [7, 14]


class Chained(ToyJob):
    """With a step that stands on the products."""

    def steps(self) -> Sequence[AnyStep]:
        numbers, apart, products = super().steps()
        last = Step(
            kind="last",
            shards=[Shard("last-0", "last", {"part": 0}, "last")],
            share=lambda context: str([context.run.receipts()[shard.name].parts for shard in self.products]),
            each=lambda shard: None,
            compute=write_apart,
            after=[products],
        )
        return [numbers, apart, products, last]


def test_other_results_go_through_all_steps_that_stand_on_each_other(tmp_path: Path) -> None:
    spec = Toy(count=1)
    run = compute(Chained(spec), tmp_path).run
    damage(run, "numbers/part-00000")
    EVENTS.clear()
    result = compute(Chained(spec, bits=7), tmp_path)
    asked = [event for event in EVENTS if "-" in event]
    assert asked == ["number-0", "product-0", "product-1", "last-0"]
    assert result.computed == 4


def test_where_nothing_of_a_group_can_be_begun_all_of_it_is_computed_anew(tmp_path: Path) -> None:
    whole = compute(ToyJob(bits=7, one_group=True), tmp_path / "whole").run
    run = compute(ToyJob(one_group=True), tmp_path / "runs").run
    damage(run, "products/part-00001")
    EVENTS.clear()
    result = compute(ToyJob(bits=7, one_group=True), tmp_path / "runs")
    assert result.failures == {}
    # The products want numbers of these bits, of which there are none: the first round comes to nothing.
    assert [event for event in EVENTS if event in SHARDS] == [*SHARDS[:3], *SHARDS[4:]]
    assert hashes(run) == hashes(whole)


def fail_on_the_second(grant: Grant, shard: Shard, numbers: Numbers, each: int) -> Produced:
    if shard.name == "number-1":
        raise ValueError("no number\nsecond line")
    return write_number(grant, shard, numbers, each)


def test_a_shard_that_fails_is_listed_with_what_stands_on_it_and_the_others_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = compute(ToyJob(write=fail_on_the_second), tmp_path, progress=Progress(quiet=True))
    assert list(result.failures) == ["number-1", "product-0", "product-1"]
    assert str(result.failures["number-1"]) == "ValueError: no number"
    assert {str(result.failures[name]) for name in ("product-0", "product-1")} == {
        "Missing: what it stands on failed, or its parts were changed"
    }
    assert result.computed == 3
    assert result.run.manifest() is None
    assert "finished" not in EVENTS
    log = (Path(result.run.folder) / "_state" / "failures.log").read_text()
    assert "in fail_on_the_second" in log
    assert log.count("shard number-1") == 1
    assert capsys.readouterr().err.count("was not computed") == 3
    EVENTS.clear()
    again = compute(ToyJob(), tmp_path)
    assert [event for event in EVENTS if event in SHARDS] == ["number-1", "product-0", "product-1"]
    assert again.failures == {}
    assert hashes(again.run) == hashes(compute(ToyJob(), tmp_path / "whole").run)


def write_to_a_table_of_others(grant: Grant, shard: Shard, numbers: Numbers, each: int) -> Produced:
    produced = write_number(grant, shard, numbers, each)
    return Produced({"products": produced.tables["numbers"]}, produced.summary)


def test_a_shard_writes_no_table_of_another_kind(tmp_path: Path) -> None:
    result = compute(ToyJob(write=write_to_a_table_of_others), tmp_path)
    assert str(result.failures["number-0"]) == "KeyError: 'products'"
    assert not list(Path(result.run.folder).rglob("*.parquet"))


def test_a_step_that_can_share_nothing_leaves_its_shards_and_those_that_stand_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToyJob, "share_numbers", lambda job, context: None)
    result = compute(ToyJob(), tmp_path)
    assert list(result.failures) == ["number-0", "number-1", "number-2", "product-0", "product-1"]
    assert {failure.kind for failure in result.failures.values()} == {"Missing"}
    assert result.computed == 1
    monkeypatch.undo()
    assert compute(ToyJob(), tmp_path).computed == 5


def test_shards_of_a_group_that_never_agree_end_in_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_a_digest_of_its_own(job: ToyJob, context: Context) -> Sum:
        return Sum(3)

    monkeypatch.setattr(ToyJob, "share_sum", with_a_digest_of_its_own)
    executor = Counting()
    result = compute(ToyJob(one_group=True), tmp_path, executor)
    assert list(result.failures) == SHARDS[:3]
    assert {failure.kind for failure in result.failures.values()} == {"Missing"}
    assert result.run.manifest() is None
    # In three rounds each makes the other stale.
    assert executor.maps == [SHARDS[:4], SHARDS[4:], SHARDS[:3], SHARDS[4:]]


def test_a_request_that_the_driver_finds_impossible_too_late_is_our_own_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def impossible(job: ToyJob, context: Context) -> None:
        raise ValueError("no sum")

    monkeypatch.setattr(ToyJob, "share_sum", impossible)
    with pytest.raises(RuntimeError, match="toy failed while it was computed"):
        compute(ToyJob(), tmp_path)
    monkeypatch.undo()
    assert compute(ToyJob(), tmp_path).computed == 2


def test_a_cluster_that_is_lost_keeps_what_was_committed(tmp_path: Path) -> None:
    class Lost(InProcessExecutor):
        def map(self, function: Any, tasks: Any) -> Iterator[Any]:
            for number, outcome in enumerate(super().map(function, tasks)):
                if number == 2:
                    raise ClusterLostError("the head is gone")
                yield outcome

    result = compute(ToyJob(), tmp_path, Lost())
    assert list(result.failures) == SHARDS[2:]
    assert {str(failure) for failure in result.failures.values()} == {"ClusterLost: the head is gone"}
    assert result.computed == 2
    assert compute(ToyJob(), tmp_path).computed == 4


def test_seconds_of_a_submission_are_its_own(tmp_path: Path) -> None:
    clock = Clock()
    first = compute(ToyJob(), tmp_path, clock=clock, opened="thinking")
    second = compute(ToyJob(Toy(count=4)), tmp_path, clock=clock)
    assert {"thinking", "looking", "starting in-process", "computing and writing", "reducing", "committing"} <= set(
        first.seconds
    )
    assert "thinking" not in second.seconds
    assert "opening the model" in second.seconds


def test_notes_are_said_before_anything_is_computed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compute(ToyJob(), tmp_path, progress=Progress())
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "a note"
    assert "6/6 shards" in lines[-1]
