"""Kernels of all heads in a real browser: each is drawn, and the one that is chosen is drawn large."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qkatlas.jobs.main import run

pytestmark = pytest.mark.browser


def test_every_head_is_drawn_and_one_is_chosen(
    worded_model: Path, open_page: Callable[..., Any], tmp_path: Path
) -> None:
    asked = ["--length", "24", "--windows", "2", "--layers", "0-1", "--heads", "2,5", "--in-process", "--quiet"]
    assert run(["positions", "--model", str(worded_model), "--out", str(tmp_path / "runs"), *asked]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    file = tmp_path / "report.html"
    assert run(["report", str(folder), "--out", str(file)]) == 0
    page = open_page(file)
    small = page.locator(".multiples button")
    assert [name.split()[0] for name in small.all_inner_texts()] == ["L0H2", "L0H5", "L1H2", "L1H5"]
    assert small.locator("svg .line").count() == 4
    small.nth(3).click()
    assert page.locator("figure.chart h3").first.inner_text().startswith("Kernel of L1H5")
    assert page.locator("select").input_value() == "L1H5"
    assert page.get_by_role("gridcell").count() == 4
    plot = page.get_by_role("img", name="Kernel of L1H5").first
    plot.press("ArrowRight")
    assert "offset 1.00" in page.locator(".readline").first.inner_text()
