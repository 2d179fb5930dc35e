"""How runs are named and found."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from support.small_runs import ORIGIN, finish

from qkatlas.outputs.places.open import open_folder
from qkatlas.outputs.runs import store
from qkatlas.outputs.runs.run import Run


def made(out: Path, finished: str, **spec: object) -> Run:
    return finish(out, origin=replace(ORIGIN, model=f"/models/{finished[:4]}", finished=finished), **spec)


def test_a_name_that_fits_several_runs_lists_them_in_one_line(tmp_path: Path) -> None:
    first = made(tmp_path, "2024-05-06T07:08:09+00:00", head="L1H5")
    second = made(tmp_path, "2025-05-06T07:08:09+00:00", head="L0H1")
    (Path(second.folder) / "manifest.json").unlink()
    third = made(tmp_path, "2026-05-06T07:08:09+00:00", heads=["L0H0"])
    (Path(third.folder) / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="'test' fits 3 runs") as error:
        store.find(tmp_path, "test")
    assert f"{first.folder.name} (2024, L1H5, 2024-05-06T07:08:09+00:00)" in str(error.value)
    assert f"{second.folder.name} (L0H1, not finished)" in str(error.value)
    assert f"{third.folder.name} (damaged)" in str(error.value)
    assert "\n" not in str(error.value)


def test_of_many_runs_ten_are_listed(tmp_path: Path) -> None:
    for number in range(12):
        finish(tmp_path, number=number)
    with pytest.raises(ValueError, match=r"fits 12 runs .*; and 2 more$") as error:
        store.find(tmp_path, "test")
    assert str(error.value).count("(m, L0H0, 2026-01-01T00:00:00+00:00)") == 10


def test_a_whole_name_is_no_beginning_of_another(tmp_path: Path) -> None:
    run = finish(tmp_path)
    longer = Path(f"{run.folder}0")
    (longer / "_state").mkdir(parents=True)
    (longer / "_state/plan.json").write_text("{}")
    assert store.find(tmp_path, run.folder.name).folder == run.folder


def test_the_newest_run_is_called_latest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'latest': no run in .* fits"):
        store.find(tmp_path, "latest")
    newest = made(tmp_path, "2026-01-01T00:30:00+00:00", n=1)
    made(tmp_path, "2026-01-01T01:00:00+02:00", n=2)  # an hour and a half earlier
    made(tmp_path, "2025-12-25T00:00:00", n=5)  # whatever the zone
    damaged = made(tmp_path, "2027-01-01T00:00:00+00:00", n=3)
    (Path(damaged.folder) / "manifest.json").write_text("{")
    assert store.find(tmp_path, "latest").folder == newest.folder
    assert store.find(tmp_path, "test-latest").folder == newest.folder
    with pytest.raises(ValueError, match=r"no run in .* fits"):
        store.find(tmp_path, "other-latest")
    begun = made(tmp_path, "2020-01-01T00:00:00+00:00", n=4)
    (Path(begun.folder) / "manifest.json").unlink()
    plan = Path(begun.folder) / "_state/plan.json"
    for year, expected in ((1_700_000_000, newest), (1_800_000_000, begun)):  # 2023, 2027
        os.utime(plan, (year, year))
        assert store.find(tmp_path, "latest").folder == expected.folder


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 3000, "~nosuchuser/run", "loop", "loop/inner", "\0"])
def test_a_name_that_no_file_can_have_is_refused_in_one_line(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ValueError) as error:  # noqa: PT011 - what it says differs
        store.find(tmp_path, name)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_name_is_no_working_directory() -> None:
    with pytest.raises(ValueError, match="is empty"):
        open_folder("")
    with pytest.raises(ValueError, match=r"~nosuchuser/x is in the home of a user who is not known here; write \./~"):
        open_folder("~nosuchuser/x")
    assert str(open_folder("./~nosuchuser/x") / "y") == "~nosuchuser/x/y"
    assert str(open_folder("~/x")) == f"{Path.home()}/x"
