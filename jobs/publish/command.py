"""`submit publish`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import click

from qkatlas.jobs.cli.command import out_option
from qkatlas.jobs.loop.terminal import harmless


@click.command("publish")
@click.argument("run_name", metavar="RUN")
@click.argument("folder", metavar="DIR")
@out_option
@click.option(
    "--license", "weights_licence", default="unknown", show_default=True, metavar="NAME",
    help="Licence of the model's weights, as the Hugging Face hub names it, such as mit or apache-2.0.",
)  # fmt: skip
def publish(run_name: str, folder: str, out: str, weights_licence: str) -> None:
    """Write a finished run as a data set: a card, and tables with layer and head columns."""
    from qkatlas.jobs.publish import data_set
    from qkatlas.outputs.places.local_folder import LocalFolder
    from qkatlas.outputs.places.open import open_folder
    from qkatlas.outputs.runs import store

    if folder.startswith("hf://"):
        raise ValueError(
            f"{folder} is not written to from here; publish to a folder, look at it, and send it with: "
            f"hf upload {folder.removeprefix('hf://datasets/')} DIR --repo-type dataset"
        )
    place = open_folder(folder)
    if not isinstance(place, LocalFolder):
        raise ValueError(f"{folder} is no folder of this machine; publish to one, and copy it then")
    target = Path(place)

    def say(line: str) -> None:
        click.echo(harmless(line, one_line=True))

    run = store.find(open_folder(out), run_name)
    tables = data_set.publish(run, target, weights_licence=weights_licence, say=say)
    if importlib.util.find_spec("datasets") is None:
        say(f"written to {target}; not loaded back, for datasets is not installed: pip install datasets")
        return
    data_set.require_loadable(target, tables)
    say(f"written to {target}, and loaded back: {len(tables)} tables")
    say(f"next: datasets.load_dataset({str(target)!r}, {next(iter(tables))!r}, split='train')")
