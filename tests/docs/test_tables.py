"""The page of tables is the one that the jobs' declarations give."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from qkatlas.jobs.loop.declaration import declarations
from qkatlas.jobs.loop.table import Table

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def program() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "tables.py"))


def test_the_page_of_tables_is_up_to_date(program: dict[str, Any]) -> None:
    assert (DOCS / "tables.md").read_text(encoding="utf-8") == program["page"](), (
        "write it anew: python docs/tables.py > docs/tables.md"
    )


def test_every_table_of_every_job_is_there() -> None:
    page = (DOCS / "tables.md").read_text(encoding="utf-8")
    texts = page.split("\n## `")[1:]
    sections = {text.split("`", 1)[0]: text for text in texts}
    for name, declared in declarations().items():
        for table in declared.load(declared.job).tables:
            # Tables of two meanings may have one name, such as `heads`, and a section each.
            said = [text for text in texts if text.startswith(f"{table.pattern}`") and _is_of(text, name)]
            assert len(said) == 1, (name, table.pattern)
            assert all(f"| `{column}` |" in said[0] for column in table.schema.names)
    assert "full-vocab (without kin_z and suppression_index), head-scan" in sections["self/L1H5/part-*.parquet"]
    assert "Written by ablation --kind mean;" in sections["output_sums/corpus=C/part-*.parquet"]


def _is_of(said: str, job: str) -> bool:
    """Whether a section says that a job writes its table."""
    writers = said.split("Written by ")[1].split(";")[0]
    named = [writer.split(" ")[0] for writer in writers.split(", ")]
    return job in named or (writers.startswith("every job but ") and not writers.endswith(job))


def test_only_tables_of_one_meaning_share_a_description(program: dict[str, Any]) -> None:
    def table(**columns: str) -> Table:
        fields = [pa.field(name, pa.int32(), metadata={"description": what}) for name, what in columns.items()]
        return Table(name="t", rows="one row", schema=pa.schema(fields))

    described = program["Described"](table(a="x", b="y"))
    assert described.takes(table(a="x"))
    assert described.takes(table(a="x", b="y", c="z"))
    assert not described.takes(table(a="other"))
    assert not described.takes(table(a="x", c="z"))
