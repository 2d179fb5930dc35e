"""What travels to a cluster: our code and its data, named files, and nothing else."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import qkatlas
from qkatlas.cluster.package import LARGEST, Package


def test_code_and_data_travel_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "counts.csv").write_text("id,count\n")
    package = Package(
        code=qkatlas,
        inputs={"inputs/frequencies/counts.csv": tmp_path / "counts.csv"},
        texts={"note.json": "{}"},
    )
    folder = tmp_path / "package"
    folder.mkdir()
    size = package.write(folder)
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    assert size == sum(file.stat().st_size for file in files.values()) < LARGEST / 5
    assert {path.partition("/")[0] for path in files} == {
        *("qkatlas", "inputs", "note.json"),
    }
    assert {"qkatlas/pipeline/text/data/categories.csv", "qkatlas/__main__.py", "inputs/frequencies/counts.csv"} <= set(
        files
    )
    assert any(path.startswith("qkatlas/outputs/report/assets/") for path in files)
    assert not [path for path in files if "__pycache__" in path or "/." in path or path.startswith((".", "tests"))]
    # It is whole: the command answers from the folder alone.
    done = subprocess.run([sys.executable, "-m", "qkatlas", "runs"], cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "no runs in runs\n")


def test_a_package_above_the_limit_is_refused_before_anything_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / "little"
    code.mkdir()
    (code / "__init__.py").touch()
    (code / ".git").mkdir()
    for hidden in (code / ".git/objects", code / "__pycache__"):
        hidden.mkdir()
        with (hidden / "pack").open("wb") as stream:
            stream.truncate(2 * LARGEST)
    monkeypatch.syspath_prepend(tmp_path)
    little = importlib.import_module("little")
    Package(code=little)
    with (code / "dump.bin").open("wb") as stream:
        stream.truncate(LARGEST + 1_500_000)
    with pytest.raises(ValueError, match=r"21\.5 MB, above the limit of 20 MB \(.*dump\.bin is 21\.5 MB of it\); make"):
        Package(code=little)
