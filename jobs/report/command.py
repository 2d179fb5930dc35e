"""`submit report`."""

from __future__ import annotations

from pathlib import Path

import click

from qkatlas.jobs.loop.terminal import harmless

_LARGE = 15_000_000
"""Bytes above which a report opens slowly and is hard to pass on."""


@click.command("report")
@click.argument("run_names", metavar="RUN...", nargs=-1, required=True)
@click.option(
    "--out", default="report.html", show_default=True, metavar="FILE", help="The file, or the folder for report.html."
)
@click.option("--runs", default="runs", show_default=True, metavar="DIR_OR_URI", help="Folder of all runs.")
@click.option(
    "--neighbours",
    type=int,
    default=10,
    show_default=True,
    metavar="N",
    help="Attended tokens of each token that the report keeps. A map of 50257 tokens is about 5 MB with 10, "
    "13 MB with 32 and 25 MB with 64.",
)
def report(run_names: tuple[str, ...], out: str, runs: str, neighbours: int) -> None:
    """Show finished runs in one HTML file that needs no network."""
    from qkatlas.jobs.report.content import Report
    from qkatlas.outputs.places.local_folder import LocalFolder
    from qkatlas.outputs.places.open import open_folder
    from qkatlas.outputs.report import page
    from qkatlas.outputs.runs import store

    place = open_folder(out)
    if not isinstance(place, LocalFolder):
        raise ValueError(f"--out {out} is no file; write the report to a folder of this machine, and copy it then")
    file = Path(place)
    if file.is_dir():
        file /= "report.html"
    page.require_replaceable(file)
    chosen = [store.find(open_folder(runs), name) for name in run_names]
    built = Report.of(chosen, neighbours=neighbours)
    title, blocks = built.content()
    size = page.write(file, page.render(title, blocks))
    names = ", ".join(run.folder.name for run in built.runs)
    click.echo(harmless(f"{title}: {size / 1e6:.1f} MB in {file}, from {names}", one_line=True))
    if size > _LARGE:
        click.echo(
            f"that is above {_LARGE / 1e6:.0f} MB; fewer --neighbours than {neighbours}, or fewer runs, make it smaller"
        )
    click.echo("open it in a browser; it needs no network and no other file")
