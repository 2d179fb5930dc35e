"""Sections of a report, as jobs declare them: of which tables each is made, how, and where it stands on the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from qkatlas.outputs.report.pack import Pack, plain
from qkatlas.outputs.runs.reader import read_whole
from qkatlas.outputs.runs.run import Run
from qkatlas.pipeline.text.vocabulary import printable

MOST_ROWS = 2000
"""Rows of a table that a page keeps where nothing is drawn of it but the table."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a section is built from.

    Attributes:
        run: a finished, sound run.
        tables: names of its tables.
        head: the one head that it is about; None if it is about none, or about several.
        pack: takes arrays and lists of texts.
        neighbours: keys of each token that the report keeps, best first.
        source: the same of the run that it goes on from, for a section that is drawn over that one's.
    """

    run: Run
    tables: frozenset[str]
    head: str | None
    pack: Pack
    neighbours: int
    source: Shown | None = None

    @property
    def spec(self) -> Mapping[str, Any]:
        """The settings of the run."""
        manifest = self.run.manifest()
        assert manifest is not None, "it is finished"
        return manifest.request.spec

    def table(self, name: str) -> pa.Table:
        """A whole table of the run.

        Raises:
            ValueError: if a file of it is damaged.
        """
        return read_whole(self.run, name)


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section that a job's runs have in a report.

    Attributes:
        kind: the drawing of the page that shows it; the page shows kinds that it has no drawing for as a plain table.
        place: where it stands on the page: sections of a lower place come before it.
        needs: names of the tables that a run must have for it.
        build: makes what the page reads of it, a JSON object without kind and run; arrays go into the pack.
        source: the setting that holds the id of the run it goes on from. Such a section stands in the place of that
            run's own section of the same kind. Empty = it goes on from none.
    """

    kind: str
    place: int
    needs: tuple[str, ...]
    build: Callable[[Shown], Mapping[str, Any]]
    source: str = ""


def table_section(kind: str, *, table: str, place: int, title: str, how: str = "") -> Section:
    """A section that is a plain table, for which the page needs no drawing.

    Args:
        kind: a name that no drawing of the page has.
        table: name of the table.
        place: where it stands on the page.
        title: of the section.
        how: how to read it; what the columns mean is there already.
    """

    def build(shown: Shown) -> Mapping[str, Any]:
        rows = shown.table(table)
        kept = columns(rows.slice(0, MOST_ROWS), cell=printable_cell)
        return {"title": title, "how": how, "head": shown.head, "table": kept, "of": rows.num_rows}

    return Section(kind=kind, place=place, needs=(table,), build=build)


def columns(
    table: pa.Table, names: Sequence[str] | None = None, *, cell: Callable[[Any], Any] = plain
) -> dict[str, Any]:
    """A table as JSON, with what its fields say of themselves.

    Args:
        table: the rows.
        names: columns to keep; None = all.
        cell: makes a JSON value of a value.

    Returns:
        `rows`, and for each column its values (null where none, or no number), its description and its unit.
    """
    found = {}
    for name in table.column_names if names is None else names:
        field = table.schema.field(name)
        metadata = field.metadata or {}
        found[name] = {
            "values": [cell(value) for value in table[name].to_pylist()],
            "description": metadata.get(b"description", b"").decode(),
            "unit": metadata.get(b"unit", b"").decode(),
        }
    return {"rows": table.num_rows, "columns": found}


def printable_cell(value: Any) -> Any:
    """Any value of a table, where texts may hold what no page should show as it is."""
    if isinstance(value, str):
        return printable(value.encode("utf-8", "backslashreplace"))
    if isinstance(value, bytes):
        return printable(value)
    if isinstance(value, list):
        return ", ".join(str(printable_cell(one)) for one in value)
    if value is None or isinstance(value, bool | int | float):
        return plain(value)
    return str(value)
