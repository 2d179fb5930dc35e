"""`submit runs`, `status` and `verify`: what is in the store; no torch, no Ray."""

from __future__ import annotations

from typing import Any

import click

from qkatlas.jobs.cli.command import out_option
from qkatlas.jobs.cli.ending import COMPLETE, INCOMPLETE, say
from qkatlas.jobs.loop.terminal import harmless


@click.command("runs")
@out_option
def runs(out: str) -> None:
    """List the runs in a folder."""
    from qkatlas.outputs.places.open import open_folder
    from qkatlas.outputs.runs import store

    found = store.all_runs(open_folder(out))
    if not found:
        _print(f"no runs in {out}")
    for run_ in found:
        _print(_status_line(run_.folder.name, store.status(run_)))


@click.command("status")
@click.argument("run_name", metavar="RUN")
@out_option
def status(run_name: str, out: str) -> None:
    """Say where a run stands."""
    from qkatlas.outputs.places.open import open_folder
    from qkatlas.outputs.runs import store

    run_ = store.find(open_folder(out), run_name)
    record = run_.plan() or run_.manifest()
    assert record is not None, "it was found"
    _print(_status_line(run_.folder.name, store.status(run_)))
    for name, value in record.request.spec.items():
        _print(f"  {name}: {value}")
    _print(f"  weights: sha256 {record.request.weights_sha256}")
    _print(f"  folder: {run_.folder}")


@click.command("verify")
@click.argument("run_name", metavar="RUN")
@out_option
def verify(run_name: str, out: str) -> int:
    """Check every file of a finished run against its manifest; exit 1 if one differs."""
    from qkatlas.outputs.places.open import open_folder
    from qkatlas.outputs.runs import soundness, store

    run_ = store.find(open_folder(out), run_name)
    faults = soundness.faults(run_)
    for fault in faults:
        _print(fault)
    if faults:
        return say(f"{len(faults)} faults in {run_.folder}; {soundness.remedy(run_, faults)}", INCOMPLETE)
    state = store.status(run_)
    _print(f"{run_.folder.name}: sound, {state.rows} rows in {state.bytes / 1e6:.1f} MB")
    return COMPLETE


def _status_line(name: str, state: Any) -> str:
    return f"{name}: {state.state}, {state.done}/{state.shards} shards, {state.rows} rows, {state.bytes / 1e6:.1f} MB"


def _print(line: str) -> None:
    """Print a line of what records and folders say, which may hold anything."""
    click.echo(harmless(line, one_line=True))
