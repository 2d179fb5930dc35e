"""Tables that were moved to another disk and linked back belong to the run; other links do not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from support.small_runs import finish

from qkatlas.outputs.places import local_folder
from qkatlas.outputs.runs import soundness, store
from qkatlas.outputs.runs.reader import read_whole
from qkatlas.outputs.runs.run import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return finish(tmp_path / "runs")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


def move(run: Run, path: str, elsewhere: Path) -> Path:
    place = Path(run.folder, path)
    moved = elsewhere / path.replace("/", "_")
    shutil.move(place, moved)
    place.symlink_to(moved)
    return moved


def contents(run: Run) -> dict[str, bytes]:
    return {part.path: Path(run.folder, part.path).read_bytes() for part in run.manifest().parts}


@pytest.mark.parametrize("path", ["topk", "topk/L0H0", "tokens.parquet"])
def test_a_linked_folder_is_followed(path: str, run: Run, elsewhere: Path) -> None:
    rows, manifest = read_whole(run, "topk"), Path(run.folder, "manifest.json").read_bytes()
    move(run, path, elsewhere)
    assert (soundness.faults(run), store.status(run).state) == ([], "complete")
    assert read_whole(run, "topk").equals(rows)
    finish(run.folder.parent)
    assert Path(run.folder, path).is_symlink()
    assert Path(run.folder, "manifest.json").read_bytes() == manifest


def test_what_is_damaged_behind_a_link_is_computed_again_there(
    run: Run, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(run)
    moved = move(run, "topk", elsewhere)
    part = next(moved.rglob("part-00001-*"))
    part.write_bytes(b"")
    stray = part.with_name("part-00009.parquet")
    stray.write_bytes(b"stray")
    assert len(soundness.faults(run)) == 2
    rename = os.rename

    def refuse(source: Path, target: Path) -> None:
        if str(source).startswith(f"{run.folder}/topk/") and "quarantine" in str(target):
            raise OSError(18, "Invalid cross-device link")
        rename(source, target)

    monkeypatch.setattr(local_folder.os, "rename", refuse)  # as between two disks
    finish(run.folder.parent)
    assert soundness.faults(run) == []
    assert (Path(run.folder, "topk").is_symlink(), part.exists(), stray.exists()) == (True, True, False)
    assert contents(run) == before
    assert [file.read_bytes() for file in Path(run.folder, "_state/quarantine").glob("*-part-00009*")] == [b"stray"]


def test_a_link_to_what_is_not_the_runs_is_set_aside_and_its_target_left_alone(run: Run, elsewhere: Path) -> None:
    (elsewhere / "mine.parquet").write_bytes(b"mine")
    Path(run.folder, "topk/L1H0").symlink_to(elsewhere)
    Path(run.folder, "topk/back").symlink_to(run.folder)
    Path(run.folder, "topk/nowhere").symlink_to(elsewhere / "nowhere")
    assert soundness.faults(run) == [f"topk/{name} was not written by the run" for name in ("L1H0", "back", "nowhere")]
    finish(run.folder.parent)
    assert soundness.faults(run) == []
    assert (elsewhere / "mine.parquet").read_bytes() == b"mine"
    assert not Path(run.folder, "topk/L1H0").is_symlink()


def test_a_linked_folder_whose_disk_is_gone_is_computed_anew(run: Run, elsewhere: Path) -> None:
    before = contents(run)
    shutil.rmtree(move(run, "topk", elsewhere))
    assert (len(soundness.faults(run)), store.status(run).state) == (3, "damaged")
    finish(run.folder.parent)
    assert (soundness.faults(run), contents(run)) == ([], before)
    assert not Path(run.folder, "topk").is_symlink()
