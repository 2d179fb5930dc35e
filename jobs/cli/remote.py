"""`submit jobs`, `logs` and `stop`: what a cluster was handed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from qkatlas.jobs.cli.ending import COMPLETE, INCOMPLETE, say
from qkatlas.jobs.cli.handover import follow_to_end, open_dashboard
from qkatlas.jobs.loop.terminal import harmless

if TYPE_CHECKING:
    from qkatlas.cluster.remote_job import JobState

_STOP_SECONDS = 15.0
"""How long a job may take to stop; Ray kills it after 3 s."""


def _address_option(command: Callable[..., Any]) -> Any:
    return click.option(
        "--address",
        default=None,
        envvar="RAY_API_SERVER_ADDRESS",
        metavar="URL",
        help="The cluster's dashboard, such as http://localhost:8265.  [default: RAY_API_SERVER_ADDRESS]",
    )(command)


@click.command("jobs")
@_address_option
@click.option("--all", "everyone", is_flag=True, help="Also jobs that were not submitted by this command.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, times in seconds since 1970.")
def list_jobs(address: str | None, everyone: bool, as_json: bool) -> None:
    """List the jobs that a cluster was handed, the latest last."""
    states = [state for state in open_dashboard(address).states() if everyone or state.command is not None]
    states.sort(key=lambda state: (state.started or 0, state.job_id))
    if as_json:
        click.echo(json.dumps([asdict(state) for state in states], indent=1))
        return
    if not states:
        click.echo(f"no jobs at {address}")
    for state in states:
        click.echo(_line(state))


@click.command("logs")
@click.argument("job_id", metavar="JOB")
@_address_option
@click.option("--follow", is_flag=True, help="Show it as it comes, and exit with the job's status.")
def logs(job_id: str, address: str | None, follow: bool) -> int:
    """Show what a job has printed."""
    from qkatlas.cluster.remote_job import opening_line

    dashboard = open_dashboard(address)
    state = dashboard.state(job_id)
    if follow:
        return follow_to_end(dashboard, state.job_id, str(address))
    before, opened, log = dashboard.log(job_id).partition(opening_line(state))
    click.echo(harmless(log if opened else before), nl=False)
    return COMPLETE


@click.command("stop")
@click.argument("job_id", metavar="JOB")
@_address_option
def stop(job_id: str, address: str | None) -> int:
    """Stop a job; what it committed is kept."""
    dashboard = open_dashboard(address)
    state = dashboard.state(job_id)
    if state.has_ended:
        click.echo(f"{job_id} has ended before: {state.status}")
        return COMPLETE
    dashboard.stop(job_id)
    deadline = time.monotonic() + _STOP_SECONDS
    while not (state := dashboard.state(job_id)).has_ended:
        if time.monotonic() > deadline:
            return say(f"error: {job_id} has not stopped in {_STOP_SECONDS:.0f} s; look with submit jobs", INCOMPLETE)
        time.sleep(0.2)
    click.echo(f"{job_id} has ended: {state.status}")
    return COMPLETE


def _line(state: JobState) -> str:
    started = took = "-"
    if state.started is not None:
        started = datetime.fromtimestamp(state.started).isoformat(sep=" ", timespec="seconds")
        took = f"{(state.ended or time.time()) - state.started:.0f} s"
    line = f"{state.job_id}: {state.status}, started {started}, {took}: {state.command or state.entrypoint}"
    return harmless(line, one_line=True)
