"""The rule against circles of imports: it holds, and it sees the imports that hide."""

from __future__ import annotations

import re
from pathlib import Path

import grimp
import pytest
from importlinter.cli import EXIT_STATUS_ERROR, EXIT_STATUS_SUCCESS, lint_imports
from networkx import DiGraph, strongly_connected_components

SETTINGS = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")


def circles(package: str) -> list[list[str]]:
    """Files that import each other in a circle, `__init__.py` files too, wherever in a file the import stands."""
    graph = grimp.build_graph(package, cache_dir=None)
    arrows = DiGraph()
    for module in graph.modules:
        arrows.add_edges_from((module, other) for other in graph.find_modules_directly_imported_by(module))
    return [sorted(circle) for circle in strongly_connected_components(arrows) if len(circle) > 1]


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circles("qkatlas") == []


IN_A_FUNCTION = "def use():\n    from {} import value\n    return value\n"
FOR_TYPES = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from {} import value\n"
AT_THE_TOP = "from {} import value\n"
LITTLE = "value = 1\n"


@pytest.mark.parametrize("back", [IN_A_FUNCTION, FOR_TYPES, AT_THE_TOP])
@pytest.mark.parametrize(
    ("files", "closing"),
    [
        ({"one": "ringed.two"}, ("two", "ringed.one")),
        ({"left/one": "ringed.right.one"}, ("right/two", "ringed.left.two")),  # packages, though no two files
    ],
)
def test_the_rule_sees_a_circle(
    back: str, files: dict[str, str], closing: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("one", "two", "left/__init__", "left/one", "left/two", "right/__init__", "right/one", "right/two")
    for name in ("__init__", *names):
        file = tmp_path / "ringed" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(LITTLE + (AT_THE_TOP.format(files[name]) if name in files else ""))
    (rules,) = re.findall(r"^\[tool\.importlinter\]\n(?:.+\n)+", SETTINGS, re.MULTILINE)
    (rule,) = re.findall(r'^\[\[.+\]\]\nname = "no circle of imports"\n(?:.+\n)+', SETTINGS, re.MULTILINE)
    (tmp_path / "pyproject.toml").write_text((rules + rule).replace('"qkatlas"', '"ringed"'))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def lint() -> int:
        return lint_imports(config_filename="pyproject.toml", no_cache=True, is_debug_mode=False)

    assert lint() == EXIT_STATUS_SUCCESS
    assert circles("ringed") == []
    name, imported = closing
    with (tmp_path / "ringed" / f"{name}.py").open("a") as stream:
        stream.write(back.format(imported))
    assert lint() == EXIT_STATUS_ERROR
    assert circles("ringed") == ([["ringed.one", "ringed.two"]] if name == "two" else [])


def test_a_package_and_its_own_file_in_a_circle_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "nested"
    folder.mkdir()
    (folder / "__init__.py").write_text("from nested.inner import value\n")
    (folder / "inner.py").write_text("value = 1\ndef use():\n    import nested\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert circles("nested") == [["nested", "nested.inner"]]
