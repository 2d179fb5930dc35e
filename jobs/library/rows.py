"""Rows that a program asked for, shown as a table in a terminal and in Jupyter."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

_SHOWN = 20
"""Rows that are shown; all of them are there."""

_WIDTH = 120
"""Characters that a line of them takes at most."""


class Rows:
    """Rows of a table; pandas, Polars and DuckDB take them as they are, for they are an Arrow stream.

    Args:
        arrow: the table.

    Attributes:
        arrow: the same.
    """

    def __init__(self, arrow: pa.Table) -> None:
        self.arrow = arrow

    def __len__(self) -> int:
        return len(self.arrow)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self.arrow.to_batches():
            yield from batch.to_pylist()

    def __getitem__(self, column: str) -> list[Any]:
        values: list[Any] = self.arrow[column].to_pylist()
        return values

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self.arrow.__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        console = Console(width=_WIDTH, highlight=False, force_jupyter=False)  # which would show it on the spot
        with console.capture() as captured:
            console.print(self.__rich__())
        return captured.get().rstrip("\n")

    def __rich__(self) -> Table:
        """The first rows, for rich, with as many columns as a terminal is wide."""
        shown = [[_cell(value) for value in row.values()] for row in self.arrow.slice(0, _SHOWN).to_pylist()]
        names = self.arrow.schema.names
        widths = [2 + max(map(len, [name, *(row[place] for row in shown)])) for place, name in enumerate(names)]
        fitting = max(1, sum(total <= _WIDTH for total in accumulate(widths)))
        more = self._more()
        if fitting < len(names):
            more = f"{more or f'{len(self)} rows'}, {fitting} of {len(names)} columns"
        drawn = Table(box=None, caption=more, caption_justify="left")
        for field in list(self.arrow.schema)[:fitting]:
            drawn.add_column(Text(field.name), justify="right" if _is_number(field.type) else "left")
        for row in shown:
            drawn.add_row(*map(Text, row[:fitting]))
        return drawn

    def _repr_html_(self) -> str:
        """The first rows, for Jupyter; tokens are data and never markup."""
        shown = self.arrow.slice(0, _SHOWN).to_pylist()
        body = html_table(self.arrow.schema.names, [[_cell(value) for value in row.values()] for row in shown])
        more = self._more()
        return body + (f"<p>{html.escape(more)}</p>" if more else "")

    def _more(self) -> str | None:
        return f"{_SHOWN} of {len(self.arrow)} rows" if len(self.arrow) > _SHOWN else None


def html_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in HTML.

    Args:
        columns: their names.
        rows: texts of their cells; nothing in them is markup.
    """
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    lines = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str):
        return value.replace(" ", "\N{MIDDLE DOT}") if value.startswith(" ") else value
    if isinstance(value, list):
        return f"[{', '.join(map(_cell, value[:4]))}{', ...' if len(value) > 4 else ''}]"
    return "" if value is None else str(value)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
