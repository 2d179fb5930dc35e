"""What lies in the folder from which a command is given is the user's own, and no part of a run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.head import Head, start_head

pytestmark = pytest.mark.cluster

SUBMIT = (str(Path(sys.executable).with_name("submit")),)
MODULE = (sys.executable, "-m", "qkatlas")

OURS = ("jobs", "cluster", "pipeline", "outputs")
LIBRARIES = ("numpy", "statistics", "colorsys")
"""What every worker imports; with these in its folder Python itself would not start `-m` any more."""

USERS = """
from pathlib import Path

(Path({folder!r}) / "{name} was run").touch()
raise SystemError("{name} is the user's own")
"""


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with start_head(tmp_path_factory.mktemp("home")) as started:
        yield started


@pytest.mark.parametrize("kind", ["files", "packages"])
@pytest.mark.parametrize("route", ["embedded", "module", "joined", "handed over"])
def test_a_users_own_files_are_not_run(route: str, kind: str, head: Head, planted_tiny: Path, tmp_path: Path) -> None:
    """Files lie on PYTHONPATH too; packages do not, and have the names of libraries beside them."""
    folder, ran = tmp_path / "folder", tmp_path / "ran"
    folder.mkdir()
    ran.mkdir()
    for name in OURS if kind == "files" or route == "module" else OURS + LIBRARIES:
        file = folder / (f"{name}.py" if kind == "files" else f"{name}/__init__.py")
        file.parent.mkdir(exist_ok=True)
        file.write_text(USERS.format(name=name, folder=str(ran)))
    address = {"joined": ("--address", head.join), "handed over": ("--address", head.address)}.get(route, ())
    request = ("full-vocab", "--gpus", "0", "--shards", "2", "--model", planted_tiny, "--out", tmp_path / "runs")
    done = subprocess.run(
        [*(MODULE if route == "module" else SUBMIT), *map(str, request), *address],
        cwd=folder,
        env={**head.user} | ({"PYTHONPATH": "."} if kind == "files" else {}),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 shards in" in done.stdout
    assert [path.name for path in ran.iterdir()] == []
