"""`submit publish`."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from qkatlas.jobs.cli.command import out_option
from qkatlas.jobs.loop.terminal import harmless

if TYPE_CHECKING:
    from qkatlas.jobs.publish.card import PublishedTable
    from qkatlas.outputs.runs.run import Run


@click.command("publish")
@click.argument("run_name", metavar="RUN")
@click.argument("target", metavar="DIR_OR_URI")
@out_option
@click.option(
    "--license", "weights_licence", default="unknown", show_default=True, metavar="NAME",
    help="Licence of the model's weights, as the Hugging Face hub names it, such as mit or apache-2.0.",
)  # fmt: skip
@click.option("--private", is_flag=True, help="With hf://: make the data set private, if it is not there yet.")
def publish(run_name: str, target: str, out: str, weights_licence: str, private: bool) -> None:
    """Write a run as a data set with a card, to a folder or hf://datasets/OWNER/NAME."""
    from qkatlas.jobs.publish import hub
    from qkatlas.outputs.places.local_folder import LocalFolder
    from qkatlas.outputs.places.open import open_folder
    from qkatlas.outputs.runs import store

    if target.startswith(hub.SCHEME):
        repository = hub.DataSetRepository.of(target)
        run = store.find(open_folder(out), run_name)
        with TemporaryDirectory(prefix="qkatlas-publish-") as above:
            folder = Path(above) / "data-set"
            tables = _written(run, folder, weights_licence)
            address = repository.push(folder, private=private, message=f"Publish {run.folder.name}")
        _say(f"sent to {address}")
        _say(_next(repository.name, tables))
        return
    if private:
        raise ValueError("--private is for data sets of the hub; leave it out, or publish to hf://datasets/OWNER/NAME")
    place = open_folder(target)
    if not isinstance(place, LocalFolder):
        raise ValueError(f"{target} is no folder of this machine; publish to one, and copy it then")
    tables = _written(store.find(open_folder(out), run_name), Path(place), weights_licence)
    _say(f"written to {place}")
    _say(_next(str(place), tables))


def _written(run: Run, folder: Path, weights_licence: str) -> Mapping[str, PublishedTable]:
    """A data set in a folder of this machine, loaded back where that can be done."""
    from qkatlas.jobs.publish import data_set

    tables = data_set.publish(run, folder, weights_licence=weights_licence, say=_say)
    if importlib.util.find_spec("datasets") is None:
        _say("not loaded back, for datasets is not installed: pip install datasets")
    else:
        data_set.require_loadable(folder, tables)
        _say(f"loaded back: {len(tables)} tables")
    return tables


def _next(name: str, tables: Mapping[str, PublishedTable]) -> str:
    return f"next: datasets.load_dataset({name!r}, {next(iter(tables))!r}, split='train')"


def _say(line: str) -> None:
    click.echo(harmless(line, one_line=True))
