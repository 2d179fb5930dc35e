"""Tasks and heads in a real browser: a chosen pair's effect stands beside its control, and curves beside both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qkatlas.jobs.inputs.resolve import write_checkpoint
from qkatlas.jobs.main import run
from qkatlas.pipeline.planted.checkpoint import PlantedDesign, plant
from qkatlas.pipeline.planted.tasks import with_tasks

pytestmark = pytest.mark.browser


def test_a_pair_is_chosen_and_read(open_page: Callable[..., Any], tmp_path: Path) -> None:
    write_checkpoint(with_tasks(plant(PlantedDesign(size="tiny"))), tmp_path / "model")
    asked = ["--tasks", "induction-1,induction-2,prepositions", "--prompts", "16", "--in-process", "--quiet"]
    assert run(["tasks", "--model", str(tmp_path / "model"), "--out", str(tmp_path / "runs"), *asked]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert run(["report", str(folder), "--out", str(tmp_path / "report.html")]) == 0
    page = open_page(tmp_path / "report.html")
    tasks, heads = page.locator("select").all()[:2]
    tasks.select_option("induction-2")
    heads.select_option("L2H4")
    assert page.get_by_role("heading", name="L2H4 on induction-2").count() == 1
    assert [text.split("\n")[0] for text in page.locator(".effect").all_inner_texts()] == [
        "prompts", "controls", "difference",
    ]  # fmt: skip
    assert page.locator("table.numbers tbody tr").count() >= 2
    assert page.get_by_text("prefixes of two tokens or more corrupted to one").count() >= 1
