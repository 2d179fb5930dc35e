"""`submit diff`."""

from __future__ import annotations

import click

from qkatlas.jobs.cli.command import out_option


@click.command("diff")
@click.argument("first", metavar="RUN_A")
@click.argument("second", metavar="RUN_B")
@click.option("--top", type=int, default=12, show_default=True, metavar="N", help="Heads to print.")
@click.option("--moved", type=int, default=10, show_default=True, metavar="N", help="Tokens to list for each head.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, of all heads.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, of all heads at the same place.")
@out_option
def diff(first: str, second: str, top: int, moved: int, as_json: bool, as_csv: bool, out: str) -> None:
    """Compare two finished runs head by head: best keys, own ranks, which head is which, tokens that moved."""
    from qkatlas.jobs.diff.answer import csv_text, json_text, printed
    from qkatlas.jobs.diff.report import compare
    from qkatlas.outputs.places.open import open_folder
    from qkatlas.outputs.runs import store

    if as_json and as_csv:
        raise ValueError("--json and --csv exclude each other; leave one out")
    for flag, value in (("--top", top), ("--moved", moved)):
        if not 1 <= value <= 100_000:
            raise ValueError(f"{flag} {value} is impossible; choose from 1 to 100000")
    place = open_folder(out)
    runs = store.find(place, first), store.find(place, second)
    compared = compare(*runs, moved=moved)
    names = runs[0].folder.name, runs[1].folder.name
    if as_json:
        click.echo(json_text(compared, names))
    elif as_csv:
        click.echo(csv_text(compared), nl=False)
    else:
        printed(compared, names, top)
