"""What a run's records say is checked against what they describe, and a second submission repairs it."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.object_store import Server
from support.small_runs import finish

from qkatlas.outputs.places.object_folder import ObjectFolder
from qkatlas.outputs.runs import soundness, store
from qkatlas.outputs.runs.reader import read_rows, read_whole
from qkatlas.outputs.runs.run import DamagedRunError, Run

Change = Callable[[dict[str, Any], Path], None]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return finish(tmp_path)


def part(manifest: dict[str, Any], beginning: str) -> dict[str, Any]:
    return next(one for one in manifest["parts"] if one["path"].startswith(beginning))


def of(name: str, value: object, beginning: str = "topk/L0H0/part-00001") -> Change:
    return lambda manifest, folder: part(manifest, beginning).__setitem__(name, value)


def without(beginning: str, *, file: bool) -> Change:
    def change(manifest: dict[str, Any], folder: Path) -> None:
        one = part(manifest, beginning)
        manifest["parts"].remove(one)
        if file:
            (folder / one["path"]).unlink()

    return change


def twice(manifest: dict[str, Any], folder: Path) -> None:
    manifest["parts"].append(dict(part(manifest, "topk/")))


def copied(manifest: dict[str, Any], folder: Path) -> None:
    one = part(manifest, "topk/")
    path = one["path"].replace("part-00000", "part-00003")
    shutil.copy(folder / one["path"], folder / path)
    manifest["parts"].append({**one, "path": path})


def listed_by_its_own_hash(path: str, content: bytes) -> Change:
    """A file that the run did not write, listed as if it had."""

    def change(manifest: dict[str, Any], folder: Path) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
        entry = {"path": path, "rows": 1, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        manifest["parts"].append(entry)

    return change


def fewer_shards(manifest: dict[str, Any], folder: Path) -> None:
    del manifest["shards"][1]


def same_shard_twice(manifest: dict[str, Any], folder: Path) -> None:
    manifest["shards"].append(manifest["shards"][0])


CHANGES: dict[str, tuple[Change, str]] = {
    "many rows": (of("rows", 999999), "has other rows than are listed: 1 for 999999"),
    "many rows of a whole table": (of("rows", 4, "tokens"), "tokens.parquet has other rows than are listed: 3 for 4"),
    "rows below 0": (of("rows", -5), "rows is -5"),
    "rows in quotes": (of("rows", "1"), "rows is '1', no whole number"),
    "rows true": (of("rows", True), "rows is True, no whole number"),
    "half rows": (of("rows", 1.0), "rows is 1.0, no whole number"),
    "too many rows": (of("rows", 2**63), "no number from 0 to 2"),
    "bytes below 0": (of("bytes", -1), "bytes is -1"),
    "other bytes": (of("bytes", 10**15), "bytes instead of 1000000000000000"),
    "a short hash": (of("sha256", "abc"), "sha256 is 'abc', no SHA-256"),
    "a hash in capitals": (of("sha256", "A" * 64), "no SHA-256"),
    "another hash": (of("sha256", "0" * 64), "has other content than was committed"),
    "a part twice": (twice, "lists the part topk/L0H0/part-00000"),
    "a copy of a part": (copied, "is listed, but of no shard"),
    "a shard twice": (same_shard_twice, "lists the shard s0 2 times"),
    "a shard less": (fewer_shards, "other shards than _state/plan.json"),
    "a part less": (without("topk/L0H0/part-00002", file=True), "does not list topk"),
    "a part less whose file is there": (without("self/", file=False), "was not written by the run"),
    "text": (listed_by_its_own_hash("topk/L0H0/part-00003.parquet", b"text"), "is no Parquet file"),
    "a path of no table": (of("path", "_state/plan.json"), "no file among the tables"),
    "a path that is no Parquet file": (of("path", "manifest.json"), "no Parquet file"),
    "a path that leads out": (of("path", "topk/../../x.parquet"), "no file among the tables"),
    "an absolute path": (of("path", "/etc/x.parquet"), "no file among the tables"),
    "a path with a name of two spellings": (of("path", "topk//x.parquet"), "no file among the tables"),
    "a path that clears the screen": (of("path", "\x1b[2J.parquet"), r"'\x1b[2J.parquet', which is no file"),
    "a path that is a number": (of("path", 3), "path is 3, no text"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_manifest_that_says_otherwise_is_found_and_repaired(name: str, run: Run) -> None:
    folder = Path(run.folder)
    original = (folder / "manifest.json").read_bytes()
    change, fault = CHANGES[name]
    manifest = json.loads(original)
    change(manifest, folder)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    found = soundness.faults(Run(folder))
    assert any(fault in one for one in found), found
    assert all(one.isprintable() for one in found)
    assert "submit" in soundness.remedy(run, found)
    assert soundness.faults(finish(folder.parent)) == []
    assert (folder / "manifest.json").read_bytes() == original


@pytest.mark.parametrize("beginning", ["topk/L0H0/part-00000", "topk/L0H0/part-00001"])
def test_a_part_that_is_not_listed_shows_without_a_journal(beginning: str, run: Run) -> None:
    folder = Path(run.folder)
    (folder / "_state/receipts.jsonl").unlink()
    assert soundness.faults(run) == []
    manifest = json.loads((folder / "manifest.json").read_text())
    without(beginning, file=True)(manifest, folder)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert soundness.faults(run) == ["manifest.json does not list the parts of topk/L0H0 one by one from 0"]


def test_a_shard_without_any_part_shows_without_a_journal(run: Run) -> None:
    folder = Path(run.folder)
    (folder / "_state/receipts.jsonl").unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    for table in ("topk", "self"):
        without(f"{table}/L0H0/part-00002", file=True)(manifest, folder)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert soundness.faults(run) == ["manifest.json lists no part of shard s2"]


ROWS = pa.table({"token_id": pa.array([0], pa.int32()), "score": [1.0]})


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({"layer=0/head=0": ROWS, "layer=0/head=1": ROWS.drop_columns("score")}, "has other columns than"),
        ({"layer=0/head=0": ROWS, "layer=1/head=0": ROWS.set_column(1, "score", pa.array([1]))}, "has other columns"),
        ({"layer=0/head=0": ROWS, "head=1": ROWS}, "lies in folders of other keys than"),
        ({"score=0": ROWS}, "has a column that its folders have"),
        ({"layer=0/head=x": ROWS}, "whose head has no value"),
        ({"source=%41": ROWS}, "whose source has no value"),
    ],
)
def test_parts_that_no_reader_can_put_together_are_not_sound(
    finish_run: Callable[..., Path], tmp_path: Path, files: dict[str, pa.Table], fault: str
) -> None:
    folder = finish_run(tmp_path, "test", {f"topk/{place}/part-00000.parquet": rows for place, rows in files.items()})
    found = soundness.faults(Run(folder))
    assert any(fault in one for one in found), found


def test_what_is_sound_is_read_alike_by_every_reader(run: Run) -> None:
    assert soundness.faults(run) == []
    expected = pq.read_table(Path(run.folder) / "topk").sort_by("token_id")
    assert expected.num_rows == 3
    for found in (read_whole(run, "topk"), read_rows(run, "topk", [0, 1, 2])):
        assert found.select(["token_id", "score"]).equals(expected.select(["token_id", "score"]))


def test_a_reader_takes_no_table_of_other_rows_than_are_listed(run: Run) -> None:
    file = Path(run.folder) / "manifest.json"
    manifest = json.loads(file.read_text())
    of("rows", 2)(manifest, Path(run.folder))
    file.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="has other rows than are listed: 1 for 2; submit the same request again"):
        read_whole(run, "topk")


def test_receipts_of_other_rows_commit_nothing(run: Run) -> None:
    folder = Path(run.folder)
    original = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").unlink()
    journal = folder / "_state/receipts.jsonl"
    journal.write_text(journal.read_text().replace('"rows":1', '"rows":7', 1))
    assert [shard.name for shard in run.missing(run.plan().shards)] == ["s0"]
    finish(folder.parent)
    assert (folder / "manifest.json").read_bytes() == original


@pytest.mark.slow
def test_other_rows_in_an_object_store_have_a_remedy_that_works(store_server: Server) -> None:
    out = ObjectFolder(store_server.uri(f"atlas/{uuid.uuid4().hex}"))
    run = finish(out)
    original = run.folder.read("manifest.json")
    run.folder.write("manifest.json", original.replace(b'"rows": 1,', b'"rows": 8,', 1))
    found = soundness.faults(run)
    assert ["has other rows than are listed: 1 for 8" in one for one in found[:1]] == [True]
    assert soundness.remedy(run, found).startswith("remove its manifest.json, then submit")
    (out / run.folder.name).remove("manifest.json")
    assert soundness.faults(finish(out)) == []
    assert run.folder.read("manifest.json") == original


SHAPES = {
    "nothing": b"",
    "half of it": b"{",
    "no object": b"[1, 2]",
    "no text": b"\xff\xfe",
    "nested lists": b'{"format": 1, "shards": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "nested objects": b'{"a": ' * 100_000 + b"1" + b"}" * 100_000,
    "a huge number": b'{"format": ' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("file", ["manifest.json", "_state/plan.json", "_state/receipts.jsonl"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_record_of_no_shape_at_all_is_told_and_repaired(shape: str, file: str, run: Run) -> None:
    folder = Path(run.folder)
    original = (folder / "manifest.json").read_bytes()
    (folder / file).write_bytes(SHAPES[shape])
    assert store.status(Run(folder)).state == ("complete" if file.endswith("jsonl") else "damaged")
    assert soundness.faults(finish(folder.parent)) == []
    assert store.status(Run(folder)).state == "complete"
    assert (folder / "manifest.json").read_bytes() == original


def deep(levels: int) -> Any:
    return [deep(levels - 1)] if levels else 1


FIELDS: list[tuple[str, Any, str]] = [
    ("shards", [1, 2], "shards[0] is 1, no object"),
    ("shards", {"a": 1}, "shards is {'a': 1}, no list"),
    ("shards", [{}], "shards[0].name is missing"),
    ("shards", [{"name": ["s0"], "group": "g"}], "shards[0].name is ['s0'], no text"),
    ("shards", [{"name": "s0", "group": "g", "kind": []}], "shards[0].kind is [], no text"),
    ("parts", None, "parts is None, no list"),
    ("parts", ["tokens.parquet"], "parts[0] is 'tokens.parquet', no object"),
    ("spec", 3, "spec is 3, no object"),
    ("spec", {"head": deep(40)}, "spec is nested more than 32 deep"),
    ("model", [], "model is [], no object"),
    ("model", {"weights_sha256": 3}, "model.weights_sha256 is 3, no text"),
    ("job", 1, "job is 1, no text"),
    ("run_id", "0123456789ab", "its run id does not follow from its request"),
    ("data_version", True, "data_version is True, no whole number"),
    ("format", 2, "its format is 2, and this version reads 1"),
    ("status", "begun", "it is not that of a whole run"),
    ("provenance", "none", "provenance is 'none', no object"),
    ("provenance", {"model": 3}, "provenance.model is 3, no text"),
    ("provenance", {"versions": []}, "provenance.versions is [], no object"),
    ("provenance", {"code": {"commit": 1}}, "provenance.code.commit is 1, no text"),
    ("provenance", {"devices": "cpu"}, "provenance.devices is 'cpu', no list"),
    ("provenance", {"seconds": {"looking": "1"}}, "provenance.seconds.looking is '1', no number"),
]


@pytest.mark.parametrize(("name", "value", "fault"), FIELDS)
def test_a_field_of_the_wrong_shape_is_named_with_the_remedy_and_repaired(
    name: str, value: object, fault: str, run: Run
) -> None:
    folder = Path(run.folder)
    original = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").write_text(json.dumps({**json.loads(original), name: value}))
    with pytest.raises(DamagedRunError) as error:
        Run(folder).manifest()
    assert fault in str(error.value)
    assert str(error.value).startswith(f"{folder}/manifest.json is damaged")
    assert str(error.value).endswith("submit the request again")
    assert "\n" not in str(error.value)
    finish(folder.parent)
    assert (folder / "manifest.json").read_bytes() == original


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        ('"data_version": 1', '"data_version": 1, "data_version": 1', "'data_version' stands in it twice"),
        ('"head": "L0H0"', '"head": NaN', "it holds the number NaN"),
        ('"head": "L0H0"', '"head": -Infinity', "it holds the number -Infinity"),
        ('"head": "L0H0"', '"head": 1e999', "1e999, which is not finite"),
    ],
)
def test_json_that_readers_take_in_different_ways_is_refused(before: str, after: str, fault: str, run: Run) -> None:
    file = Path(run.folder) / "manifest.json"
    file.write_text(file.read_text().replace(before, after))
    with pytest.raises(DamagedRunError, match=fault):
        run.manifest()


@pytest.mark.parametrize("change", [{}, {"provenance": None}, {"provenance": {}}, {"of a later version": {"a": [1]}}])
def test_what_nobody_wrote_down_and_what_is_new_does_no_harm(change: dict[str, Any], run: Run) -> None:
    file = Path(run.folder) / "manifest.json"
    manifest = {name: value for name, value in json.loads(file.read_text()).items() if name != "provenance"}
    file.write_text(json.dumps({**manifest, **change}))
    assert (run.manifest().provenance is None) == (change.get("provenance") is None)
    assert soundness.faults(run) == []
    assert store.described(run) == f"{run.folder.name} (L0H0, not finished)"


@pytest.mark.parametrize("file", ["manifest.json", "_state/plan.json", "_state/receipts.jsonl", "_state/failures.log"])
def test_a_folder_in_place_of_a_record_is_set_aside(file: str, run: Run) -> None:
    folder = Path(run.folder)
    tables = {path: size for path, size in run.folder.files().items() if path.endswith(".parquet")}
    (folder / file).unlink(missing_ok=True)
    (folder / file).mkdir()
    (folder / file / "inner").write_text("kept")
    (folder / "topk").rename(folder / "_state/topk")  # or else nothing has to be done
    assert store.status(Run(folder)).state == "damaged"
    finish(folder.parent)
    assert soundness.faults(run) == []
    assert {path: size for path, size in run.folder.files().items() if path.endswith(".parquet")} == tables
    assert [one.read_text() for one in (folder / "_state/quarantine").rglob("inner")] == ["kept"]


def test_one_bad_folder_is_listed_beside_the_others(tmp_path: Path) -> None:
    good = finish(tmp_path)
    bad: dict[str, Callable[[Path], object]] = {
        "test-000000000001": lambda folder: (folder / "manifest.json").write_bytes(SHAPES["nested lists"]),
        "test-000000000002": lambda folder: (folder / "manifest.json").symlink_to("manifest.json"),
        "test-000000000003": lambda folder: shutil.rmtree(folder / "_state") or (folder / "_state").write_text(""),
        "test-000000000004": lambda folder: (folder / "_state/plan.json").write_text('{"shards": [1, 2]}'),
    }
    for name, spoil in bad.items():
        folder = shutil.copytree(good.folder, tmp_path / name)
        if name.endswith(("1", "2")):
            (folder / "manifest.json").unlink()
        spoil(Path(folder))
    states = {run.folder.name: store.status(run).state for run in store.all_runs(tmp_path)}
    assert states.pop(good.folder.name) == "complete"
    assert states == {
        "test-000000000001": "damaged", "test-000000000002": "damaged",
        "test-000000000003": "complete", "test-000000000004": "damaged",
    }  # fmt: skip
