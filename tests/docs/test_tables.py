"""The page of tables is the one that the schemas give."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_of_tables_is_up_to_date() -> None:
    page = runpy.run_path(str(DOCS / "tables.py"))["page"]
    assert (DOCS / "tables.md").read_text(encoding="utf-8") == page(), (
        "write it anew: python docs/tables.py > docs/tables.md"
    )
