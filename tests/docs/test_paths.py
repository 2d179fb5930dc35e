"""What the documentation names is there: files, modules, and the targets of links."""

from __future__ import annotations

import re
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(chain(*(ROOT.glob(pages) for pages in ("*.md", "docs/**/*.md", "benchmarks/*.md", "cluster/deploy/*"))))
FOLDERS = "benchmarks|cluster|docs|jobs|outputs|pipeline|src|tests"
PATH = re.compile(rf"(?<![\w./:<$-])(?:{FOLDERS})/[\w./*-]*\w/?")
FILE = re.compile(r"(?<![\w./:<$-])[\w-]+\.(?:md|toml|cff|sh|yaml)\b")
MODULE = re.compile(r"python3? -m (\w+(?:\.\w+)*)|`(qkatlas(?:\.\w+)+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
WRITTEN = ("report.html", "jobs/norms/")
"""How names begin of what a page writes: by a command, or as the worked example of a job."""


def there(page: Path, path: str) -> bool:
    """Whether a path is there: from the repository's root, from the page's folder, or a deployment file by its name."""
    return any(any(base.glob(path.rstrip("/"))) for base in (ROOT, page.parent, ROOT / "cluster/deploy"))


def is_module(name: str) -> bool:
    """Whether `python -m` finds a module from the root of the repository."""
    first = name.partition(".")[0]
    if first in FOLDERS.split("|"):  # of these only the benchmarks are run as they lie
        return first == "benchmarks" and (ROOT / f"{name.replace('.', '/')}.py").is_file()
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # a package above it
        return False


def faults(page: Path, text: str) -> list[str]:
    """Names in a page that nothing has."""
    named = [*PATH.findall(text), *FILE.findall(text)]
    named += [target.partition("#")[0] for target in LINK.findall(text) if "://" not in target]
    wrong = [path for path in named if path and not path.startswith(WRITTEN) and not there(page, path)]
    return wrong + [module for module in chain(*MODULE.findall(text)) if module and not is_module(module)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_names_is_there(page: Path) -> None:
    assert faults(page, page.read_text(encoding="utf-8")) == []


def test_what_is_not_there_is_found() -> None:
    text = (
        "Here are `python docs/tables.py`, jobs/loop, tests/cluster/*.py, cluster/deploy/, [a](docs/jobs.md#plan), "
        "`python -m qkatlas`, `python -m benchmarks.plan`, `qkatlas.jobs.main`, pyproject.toml, and elsewhere "
        "https://example.org/docs/none.md. Not here are `python docs/none.py`, jobs/service.py, [b](none/there), "
        "`python -m jobs runs`, `qkatlas.jobs.service` and none.toml."
    )
    assert sorted(faults(ROOT / "README.md", text)) == sorted(
        ["docs/none.py", "jobs/service.py", "none/there", "jobs", "qkatlas.jobs.service", "none.toml"]
    )


def test_the_readme_fits_one_sitting() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 250
