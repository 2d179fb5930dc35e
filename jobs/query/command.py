"""`submit sql`."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from datetime import date, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from qkatlas.jobs.cli.command import out_option
from qkatlas.jobs.loop.terminal import harmless

if TYPE_CHECKING:
    import pyarrow as pa


@click.command("sql")
@click.argument("run_name", metavar="RUN")
@click.argument("query", metavar="QUERY")
@out_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list with an object for each row.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, lists in it as JSON.")
def sql(run_name: str, query: str, out: str, as_json: bool, as_csv: bool) -> None:
    """Ask a finished run in SQL: its tables are there by their names (DuckDB; reads this run only)."""
    from qkatlas.jobs.query import views
    from qkatlas.outputs.places.open import open_folder
    from qkatlas.outputs.runs import store

    if as_json and as_csv:
        raise ValueError("--json and --csv are two forms of one answer; leave one out")
    connection = views.connect(store.find(open_folder(out), run_name))
    with connection:
        asked = views.ask(connection, query)
        if as_json:
            _print_json(views.rows(asked))
        elif as_csv:
            _print_csv(asked.columns, views.rows(asked))
        else:
            click.echo(harmless(views.printed(asked)), nl=False)


def _print_json(batches: Iterator[pa.RecordBatch]) -> None:
    separator = "[\n"
    for batch in batches:
        for row in batch.to_pylist():
            click.echo(separator + json.dumps(_plain(row), allow_nan=False), nl=False)
            separator = ",\n"
    click.echo("[]" if separator == "[\n" else "\n]")


def _print_csv(columns: list[str], batches: Iterator[pa.RecordBatch]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for batch in batches:
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            cells = [_plain(cell) for cell in row]
            writer.writerow([json.dumps(cell) if isinstance(cell, list | dict) else cell for cell in cells])
        click.echo(text.getvalue(), nl=False)
        text.seek(0)
        text.truncate()
    click.echo(text.getvalue(), nl=False)


def _plain(value: Any) -> Any:
    """A value as JSON has it: bytes in hexadecimal digits, null for what is no finite number."""
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, date | time):
        return value.isoformat()
    return value if value is None or isinstance(value, str | int) else str(value)
