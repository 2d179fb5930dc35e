"""`submit runs`, `status` and `verify`: what is in the store; no torch, no Ray."""

from __future__ import annotations

import json

import click

from qkatlas.jobs.cli.command import out_option
from qkatlas.jobs.cli.ending import COMPLETE, INCOMPLETE, say
from qkatlas.jobs.loop.terminal import harmless

_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, sizes in bytes.")


@click.command("runs")
@out_option
@_as_json
def runs(out: str, as_json: bool) -> None:
    """List the runs in a folder: where each stands, its model, head, states, date and size."""
    from qkatlas.outputs.places.open import open_folder
    from qkatlas.outputs.runs import store
    from qkatlas.outputs.runs.listing import Listed

    found = [Listed.of(run_) for run_ in store.all_runs(open_folder(out))]
    if as_json:
        click.echo(json.dumps([run_.as_json() for run_ in found], indent=1))
        return
    if not found:
        _print(f"no runs in {out}")
    for run_ in found:
        _print(run_.line)


@click.command("status")
@click.argument("run_name", metavar="RUN")
@out_option
@_as_json
def status(run_name: str, out: str, as_json: bool) -> None:
    """Say where a run stands, and with which settings it was made."""
    from qkatlas.outputs.places.open import open_folder
    from qkatlas.outputs.runs import store
    from qkatlas.outputs.runs.listing import Listed

    run_ = Listed.of(store.find(open_folder(out), run_name))
    if as_json:
        click.echo(json.dumps({**run_.as_json(), "settings": dict(run_.settings)}, indent=1))
        return
    _print(run_.line)
    for name, value in run_.settings.items():
        _print(f"  {name}: {value}")
    if run_.weights_sha256 is not None:  # unless the run's own files cannot be read
        _print(f"  weights: sha256 {run_.weights_sha256}")
    _print(f"  folder: {run_.folder}")


@click.command("verify")
@click.argument("run_name", metavar="RUN")
@out_option
@_as_json
def verify(run_name: str, out: str, as_json: bool) -> int:
    """Check every file of a finished run against its manifest; exit 1 if one differs."""
    from qkatlas.outputs.places.open import open_folder
    from qkatlas.outputs.runs import soundness, store

    run_ = store.find(open_folder(out), run_name)
    faults = soundness.faults(run_)
    if as_json:
        state = store.status(run_)
        told = {"name": run_.folder.name, "folder": str(run_.folder), "sound": not faults, "faults": faults}
        click.echo(json.dumps({**told, "rows": state.rows, "bytes": state.bytes}, indent=1))
    else:
        for fault in faults:
            _print(fault)
    if faults:
        return say(f"{len(faults)} faults in {run_.folder}; {soundness.remedy(run_, faults)}", INCOMPLETE)
    if not as_json:
        state = store.status(run_)
        _print(f"{run_.folder.name}: sound, {state.rows} rows in {state.bytes / 1e6:.1f} MB")
    return COMPLETE


def _print(line: str) -> None:
    """Print a line of what records and folders say, which may hold anything."""
    click.echo(harmless(line, one_line=True))
