"""What is installed: one package with its data, from the checkout and from the source distribution alike."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FOLDERS = ("jobs", "cluster", "pipeline", "outputs")
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "docs/package.md", "src", *FOLDERS)
"""What a build reads; cluster/deploy/Dockerfile copies the same."""

BUILD = "import sys; from setuptools import build_meta as build; getattr(build, sys.argv[1])(sys.argv[2])"


def build(kind: str, source: Path, target: Path) -> Path:
    target.mkdir()
    done = subprocess.run([sys.executable, "-c", BUILD, kind, str(target)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "absent from the `packages` configuration" not in done.stdout + done.stderr
    (built,) = target.iterdir()
    return built


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, since a build leaves folders behind that a later one would pack."""
    folder = tmp_path_factory.mktemp("source")
    for path in SOURCES:
        (folder / path).parent.mkdir(exist_ok=True)
        if (ROOT / path).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / path, folder / path, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / path, folder / path)
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("build_wheel", source, tmp_path_factory.mktemp("built") / "wheel")


def test_the_wheel_holds_our_package_and_nothing_else(wheel: Path) -> None:
    held = names(wheel)
    (described,) = {name.partition("/")[0] for name in held} - {"qkatlas"}
    assert described.endswith(".dist-info")

    package = ROOT / "src/qkatlas"
    files = [Path(folder, name) for folder, _, inner in os.walk(package, followlinks=True) for name in inner]
    paths = {file.relative_to(package.parent).as_posix() for file in files if "__pycache__" not in file.parts}
    wanted = {path for path in paths if not path.startswith("qkatlas/cluster/deploy/")}  # files to copy, not to import
    assert {name for name in held if name.startswith("qkatlas/")} == wanted
    data = ("pipeline/text/data/categories.csv", "jobs/reproduce/data/published.json", "outputs/report/assets/map.js")
    assert {f"qkatlas/{path}" for path in data} <= held


def test_the_source_distribution_builds_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    sdist = build("build_sdist", source, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        assert not [member.name for member in archive if not (member.isfile() or member.isdir())]  # no links
        # Python before 3.11.4 has no filters; what is unpacked was built here.
        archive.extractall(tmp_path / "unpacked", **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert names(build("build_wheel", unpacked, tmp_path / "wheel")) == names(wheel)


def test_the_wheel_is_described_for_a_package_index(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        told = message_from_string(archive.read(name).decode())
        (points,) = (name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt"))
        scripts = archive.read(points).decode()
    assert told["Author"] == "QK Atlas contributors"
    assert told["License-Expression"] == "MIT"
    assert told["Description-Content-Type"] == "text/markdown"
    assert len(told.get_all("Classifier")) >= 5
    assert "qk circuit" in told["Keywords"]
    assert told.get_payload() == (ROOT / "docs/package.md").read_text(encoding="utf-8")
    for command in ("submit", "qkatlas"):
        assert f"{command} = qkatlas.__main__:main\n" in scripts
