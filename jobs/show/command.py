"""`submit show`."""

from __future__ import annotations

import click

from qkatlas.jobs.cli.command import out_option


@click.command("show")
@click.argument("run_name", metavar="RUN")
@click.argument("words", metavar="TOKEN...", nargs=-1, required=True)
@click.option("--head", metavar="HEAD", default=None, help="The head, where the run has several.")
@click.option("--keys", type=int, default=10, show_default=True, metavar="N", help="Tokens of each list.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@out_option
def show(
    run_name: str, words: tuple[str, ...], head: str | None, keys: int, as_json: bool, as_csv: bool, out: str
) -> None:
    """Show what a head makes of some tokens: whom they attend to and are attended by, and what that writes.

    A TOKEN is a word or a token's text, its leading space as a space, a middle dot or _, or an id such as #17.
    """
    from qkatlas.jobs.inputs.head_tables import HeadTables
    from qkatlas.jobs.inputs.words import token_of
    from qkatlas.jobs.show.answer import csv_text, json_text, printed
    from qkatlas.jobs.show.look import look
    from qkatlas.outputs.places.open import open_folder
    from qkatlas.outputs.runs import store

    if as_json and as_csv:
        raise ValueError("--json and --csv exclude each other; leave one out")
    if not 1 <= keys <= 1000:
        raise ValueError(f"--keys {keys} is impossible; choose from 1 to 1000")
    run = store.find(open_folder(out), run_name)
    tables = HeadTables.open(run, head)
    vocabulary = tables.vocabulary
    tokens = [token_of(word, vocabulary) for word in words]
    seen = look(tables, tokens, keys)
    if as_json:
        click.echo(json_text(seen, vocabulary, {"run": run.folder.name, "head": str(tables.head)}))
    elif as_csv:
        click.echo(csv_text(seen, vocabulary), nl=False)
    else:
        printed(seen, vocabulary, f"{tables.head} in {run.folder.name}")
