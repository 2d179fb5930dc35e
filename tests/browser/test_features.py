"""Features of heads in a real browser: the grid, and the ten of the head that is chosen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qkatlas.jobs.main import run

pytestmark = pytest.mark.browser


def test_a_head_is_chosen_and_its_features_are_listed(open_page: Callable[..., Any], tmp_path: Path) -> None:
    asked = ["--layers", "1", "--windows", "6", "--length", "24", "--in-process", "--quiet"]
    assert run(["features", "--model", "planted-tiny", "--out", str(tmp_path / "runs"), *asked]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    file = tmp_path / "report.html"
    assert run(["report", str(folder), "--out", str(file)]) == 0
    page = open_page(file)
    card = page.locator("section.card").first
    assert card.get_by_role("gridcell").count() == 8
    select = card.locator("select")
    assert select.input_value() == "L1H0"  # the planted candidate
    table = card.get_by_role("region", name="Features of L1H0")
    assert table.locator("tbody tr").count() == 10
    assert table.locator("bdi.token").count() > 100
    card.get_by_role("gridcell").nth(5).click()
    assert select.input_value() == "L1H5"
    assert card.get_by_role("region", name="Features of L1H5").locator("tbody tr").count() == 10
    assert page.get_by_role("heading", name="What scores are made of").count() == 1
