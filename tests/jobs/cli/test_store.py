"""What the reading commands print: one line a thing, and nothing that a terminal would obey."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.small_runs import ORIGIN, finish

from qkatlas.jobs.main import run as submit
from qkatlas.outputs.runs.store import status as status_of


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "runs"


HOSTILE = "\x1b[2J\r\n\x07\x9b\u202e\u2028\ud800"


def test_names_and_settings_are_harmless(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finish(out, origin=replace(ORIGIN, model=HOSTILE), **{HOSTILE: HOSTILE})
    finish(out, other=1)
    folder = Path(run.folder)
    folder.rename(folder.with_name(f"test\x1b[2J\n-{folder.name.rpartition('-')[2]}"))
    assert submit(["runs", "--out", str(out)]) == 0
    assert submit(["status", folder.name.rpartition("-")[2], "--out", str(out)]) == 0
    assert submit(["verify", folder.name.rpartition("-")[2], "--out", str(out)]) == 0
    assert submit(["status", "test", "--out", str(out)]) == 2
    printed = capsys.readouterr()
    assert all(line.isprintable() for line in (printed.out + printed.err).split("\n"))
    assert r"  \x1b[2J\r\n\x07\x9b\u202e\u2028\ud800: \x1b[2J\r\n\x07\x9b\u202e\u2028\ud800" in printed.out
    assert len(printed.err.splitlines()) == 1


def test_a_manifest_that_cannot_be_read_is_a_fault_like_others(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finish(out)
    file = Path(run.folder) / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "shards": [1, 2]}))
    assert submit(["verify", run.folder.name, "--out", str(out)]) == 1
    printed = capsys.readouterr()
    assert printed.out == "manifest.json is damaged (shards[0] is 1, no object)\n"
    assert printed.err.endswith("; submit the same request again to repair it\n")
    assert submit(["runs", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{run.folder.name}: damaged, 0/0 shards, 0 rows, 0.0 MB\n"


@pytest.mark.parametrize("out_", ["", "~nosuchuser/x"])
def test_a_folder_that_cannot_be_is_refused(out_: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit(["runs", "--out", out_]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_short_name_that_fits_several_runs_lists_them_and_the_newest_can_be_asked_for(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dates = {"2026-05-01T00:00:00+00:00": 1, "2026-07-01T00:00:00+00:00": 2, "2026-06-01T00:00:00+00:00": 3}
    made = [finish(out, origin=replace(ORIGIN, finished=date), number=number) for date, number in dates.items()]
    assert submit(["status", "test", "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"submit: error: run 'test' fits 3 runs in {out}; name one of: ")
    for run, date in zip(made, dates, strict=True):
        assert f"{run.folder.name} (m, L0H0, {date})" in line
    for name in ("latest", "test-latest"):
        assert submit(["status", name, "--out", str(out)]) == 0
        assert capsys.readouterr().out.startswith(f"{made[1].folder.name}: complete")
        assert submit(["verify", name, "--out", str(out)]) == 0
        assert capsys.readouterr().out.startswith(f"{made[1].folder.name}: sound")


def test_runs_are_told_apart_by_what_they_are_of(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finish(out, origin=replace(ORIGIN, model="some/where/m"), states="bos")
    size = sum(part.bytes for part in run.manifest().parts)
    assert submit(["runs", "--out", str(out)]) == 0
    line = f"{run.folder.name}: complete, 3/3 shards, 9 rows, 0.0 MB, m, L0H0, states bos, 2026-01-01T00:00:00+00:00\n"
    assert capsys.readouterr().out == line
    assert submit(["status", "latest", "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith(line)
    expected = {
        "name": run.folder.name, "state": "complete", "job": "test", "model": "some/where/m", "head": "L0H0",
        "states": "bos", "date": "2026-01-01T00:00:00+00:00", "done": 3, "shards": 3, "rows": 9, "bytes": size,
        "folder": str(run.folder), "run_id": run.manifest().request.run_id, "weights_sha256": "w",
    }  # fmt: skip
    assert submit(["runs", "--json", "--out", str(out)]) == 0
    assert json.loads(capsys.readouterr().out) == [expected]
    assert submit(["status", "test", "--json", "--out", str(out)]) == 0
    assert json.loads(capsys.readouterr().out) == {**expected, "settings": {"head": "L0H0", "states": "bos"}}


def test_a_run_that_is_not_finished_is_dated_by_its_plan(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finish(out)
    (Path(run.folder) / "manifest.json").unlink()
    assert submit(["runs", "--json", "--out", str(out)]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["state"], found["model"], found["head"]) == ("incomplete", None, "L0H0")
    assert found["date"][:4] == f"{run.begun():%Y}"
    assert submit(["runs", "--json", "--out", str(out / "none")]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_verify_as_json_tells_a_sound_run_from_a_damaged_one(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finish(out)
    state = status_of(run)
    assert submit(["verify", run.folder.name, "--out", str(out), "--json"]) == 0
    sound = {"name": run.folder.name, "folder": str(run.folder), "sound": True, "faults": []}
    assert json.loads(capsys.readouterr().out) == sound | {"rows": state.rows, "bytes": state.bytes}
    file = next(Path(run.folder).rglob("*.parquet"))
    file.unlink()
    assert submit(["verify", run.folder.name, "--out", str(out), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["sound"], found["faults"]) == (False, [f"{file.relative_to(run.folder)} is missing"])
