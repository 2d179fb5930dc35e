"""`submit find`."""

from __future__ import annotations

from typing import Any

import click

from qkatlas.jobs.cli.command import parameters, taken
from qkatlas.jobs.find.spec import Find
from qkatlas.jobs.loop.option import options_of
from qkatlas.jobs.loop.terminal import harmless


def _run(**given: Any) -> None:
    spec = Find(**taken(Find, given))

    # Loaded only now, so that a request that is refused by its words alone is refused at once.
    from qkatlas.jobs.find.answer import csv_text, json_text, printed
    from qkatlas.jobs.find.search import search
    from qkatlas.jobs.inputs.model import Model
    from qkatlas.jobs.inputs.resolve import resolve

    def say(line: str) -> None:
        click.echo(harmless(line, one_line=True), err=True)

    model = Model.open(spec.model, resolve(spec.model, say))
    pairs, found = search(spec, model)
    if spec.as_json:
        click.echo(json_text(spec, pairs, found))
    elif spec.as_csv:
        click.echo(csv_text(pairs, found), nl=False)
    else:
        printed(pairs, found[: spec.top], len(found), model.vocabulary)


find = click.Command(
    "find",
    callback=_run,
    params=parameters(options_of(Find)),
    help="Find the heads of a model that attend along some pairs of words and not along others, without a scan.",
)
"""The command."""
