"""The example notebook shows what its cells give today, with a learned model (about 20 s)."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from support.gguf_files import real_model

DOCS = Path(__file__).parents[2] / "docs"
DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@pytest.fixture(scope="module")
def program() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "notebook.py"))


@pytest.fixture(scope="module")
def committed() -> dict[str, Any]:
    return json.loads((DOCS / "example.ipynb").read_text(encoding="utf-8"))


def code(*lines: str) -> dict[str, Any]:
    return {"cell_type": "code", "source": "\n".join(lines).splitlines(keepends=True), "execution_count": None}


def texts(notebook: dict[str, Any]) -> list[str]:
    """What its cells show, as text, without the dates of runs."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    shown = ["".join(output["text"] if "text" in output else output["data"]["text/plain"]) for output in outputs]
    return [DATE.sub("DATE", text) for text in shown]


def test_cells_run_in_order_and_show_what_they_print_and_are_worth(program: dict[str, Any]) -> None:
    shown = "type('T', (), {'__repr__': lambda s: 't', '_repr_html_': lambda s: '<b>t</b>\\n'})()"
    prose = {"cell_type": "markdown", "source": ["x"]}
    cells = [code("x = 2", "print('a')", "x + 1"), prose, code(shown), code("x = 5")]
    first, text, second, third = program["executed"]({"cells": cells, "nbformat": 4})["cells"]
    assert first["outputs"] == [
        {"name": "stdout", "output_type": "stream", "text": ["a\n"]},
        {"data": {"text/plain": ["3"]}, "execution_count": 1, "metadata": {}, "output_type": "execute_result"},
    ]
    assert text == prose
    assert second["outputs"][0]["data"] == {"text/plain": ["t"], "text/html": ["<b>t</b>\n"]}
    assert (third["outputs"], third["execution_count"]) == ([], 3)
    with pytest.raises(NameError):
        program["executed"]({"cells": [code("none_such")]})


def test_it_was_committed_as_it_was_run_and_names_no_machine(committed: dict[str, Any]) -> None:
    cells = [cell for cell in committed["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    assert all(cell["outputs"] for cell in cells)
    assert not re.search(r"/(?:home|root|tmp|work|Users)/", json.dumps(committed))


@pytest.mark.real
@pytest.mark.slow
def test_its_outputs_are_those_of_its_cells(
    program: dict[str, Any], committed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_model()
    monkeypatch.chdir(tmp_path)
    found, expected = texts(program["executed"](committed)), texts(committed)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        # Another kind of processor gives states other last bits; words stay.
        assert NUMBER.sub("#", ours).split() == NUMBER.sub("#", theirs).split()
        numbers = [[float(number) for number in NUMBER.findall(text)] for text in (ours, theirs)]
        assert numbers[0] == pytest.approx(numbers[1], rel=0.02, abs=0.02)
