"""`submit relations`."""

from __future__ import annotations

from typing import Any

import click

from qkatlas.jobs.cli.command import parameters, taken
from qkatlas.jobs.loop.option import options_of
from qkatlas.jobs.loop.terminal import harmless
from qkatlas.jobs.relations.spec import Relations


def _run(**given: Any) -> None:
    spec = Relations(**taken(Relations, given))

    # Loaded only now, so that a request that is refused by its words alone is refused at once.
    from qkatlas.jobs.inputs.model import Model
    from qkatlas.jobs.inputs.resolve import resolve
    from qkatlas.jobs.relations.answer import csv_text, json_text, printed
    from qkatlas.jobs.relations.measure import measure
    from qkatlas.pipeline.text.relations import SMALLEST, read_relations, token_relations

    def say(line: str) -> None:
        click.echo(harmless(line, one_line=True), err=True)

    model = Model.open(spec.model, resolve(spec.model, say))
    model.vocabulary.require_readable()
    relations, dropped = token_relations(spec.pairs or read_relations(), model.vocabulary)
    if dropped:
        say(f"left out, for fewer than {SMALLEST} of their pairs are single tokens: {', '.join(dropped)}")
    if not relations:
        raise ValueError(
            f"no relation has {SMALLEST} pairs of single tokens of {spec.model}; give others with --pairs CSV"
        )
    scores = measure(spec, model, relations)
    if spec.as_json:
        click.echo(json_text(spec, scores))
    elif spec.as_csv:
        click.echo(csv_text(spec, scores), nl=False)
    else:
        printed(spec, scores)


relations = click.Command(
    "relations",
    callback=_run,
    params=parameters(options_of(Relations)),
    help="Score every head by how often attending to a word promotes a related word, beside shuffled pairs.",
)
"""The command."""
