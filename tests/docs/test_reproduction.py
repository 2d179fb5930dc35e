"""The page of published figures is the one that the project's data file gives."""

from __future__ import annotations

import runpy
from pathlib import Path

from qkatlas.jobs.reproduce.published import facts

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_of_published_figures_is_up_to_date() -> None:
    page = runpy.run_path(str(DOCS / "reproduction.py"))["page"]
    assert (DOCS / "reproduction.md").read_text(encoding="utf-8") == page(facts()), (
        "write it anew: python docs/reproduction.py > docs/reproduction.md"
    )
