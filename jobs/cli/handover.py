"""Hands a command to a cluster: the same options, and the files they name, through the Ray Jobs API."""

from __future__ import annotations

import os
import secrets
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click
from click.core import ParameterSource

import qkatlas
from qkatlas.jobs.cli.ending import BAD_REQUEST, COMPLETE, INCOMPLETE, say
from qkatlas.jobs.cli.signals import Interrupted, interrupted
from qkatlas.jobs.cli.values import InputFile
from qkatlas.jobs.loop.request import Request
from qkatlas.jobs.loop.terminal import harmless

if TYPE_CHECKING:
    from qkatlas.cluster.dashboard import Dashboard
    from qkatlas.cluster.package import Package
    from qkatlas.cluster.remote_job import JobState

PREFIX = "qkatlas"
"""How the ids of our jobs begin."""

_HERE_ONLY = ("address", "detach")
"""Options that say where the command runs, not what it does."""

_FOLDERS = {"directory": "SAE_DIR", "features": "--features"}
"""Folders beside the model that a cluster reads where they are, by the names of parameters."""

_NO_PROGRAM = 127
"""Exit code of a shell that does not find the program."""


@dataclass(frozen=True, kw_only=True)
class Handover:
    """A command as a cluster is to run it."""

    arguments: tuple[str, ...]
    """Of `submit`, the command's name first; input files by their path in the package."""
    inputs: dict[str, Path]
    """Files that travel, by their path in the package."""

    @classmethod
    def of(cls, context: click.Context) -> Handover:
        """Read it off a parsed command line, with only those options that were given.

        Raises:
            ValueError: if one of them cannot be followed on another machine.
        """
        arguments = [str(context.info_name)]
        positional: list[str] = []
        inputs: dict[str, Path] = {}
        for parameter, value in given_parameters(context):
            if isinstance(parameter, click.Argument):
                positional.append(str(value))
            elif isinstance(value, bool):
                arguments.append((parameter.opts if value else parameter.secondary_opts)[0])
            else:
                values = value if isinstance(value, tuple) else (value,)
                if isinstance(parameter.type, InputFile):
                    values = _packed(parameter.opts[0], values, inputs)
                elif isinstance(parameter.type, click.Path):
                    raise ValueError(
                        f"{parameter.opts[0]} {value} would be written on the cluster; leave it out, and give the same "
                        "command with it where --out can be read: a finished run is not computed again"
                    )
                arguments += [parameter.opts[0], *map(str, values)]
        for argument in (*arguments, *positional):
            if "\0" in argument or not argument.isprintable():
                raise ValueError(f"{argument!a} holds characters that do not travel to a cluster; choose another name")
        return cls(arguments=(*arguments, *(["--", *positional] if positional else [])), inputs=inputs)

    def entrypoint(self) -> str:
        """What the cluster's shell is to run, in the package."""
        name, *options = self.arguments
        # The program that ran the head's own processes is not known to the shell; `python` is what Ray's users write.
        return shlex.join(["python", "-m", "qkatlas", name, "--address", "auto", *options])


def given_parameters(context: click.Context) -> Iterator[tuple[click.Parameter, Any]]:
    """The options and arguments of a parsed command that were given, with their values; not those of this place only.

    Args:
        context: of the command.
    """
    for parameter in context.command.params:
        name = parameter.name
        if name is None or name in _HERE_ONLY or name not in context.params:
            continue
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            yield parameter, context.params[name]


def _packed(option: str, files: tuple[Path, ...], inputs: dict[str, Path]) -> tuple[PurePosixPath, ...]:
    """Add an option's files to those that travel; their paths in the package."""
    found = []
    for number, file in enumerate(files):
        if not file.is_file() or not os.access(file, os.R_OK):
            raise ValueError(
                f"{option} {file} cannot be sent to the cluster; name a file of this machine that can be read"
            )
        folder = (str(number),) if number else ()  # two files may have one name
        path = PurePosixPath("inputs", option.lstrip("-"), *folder, file.name)
        inputs[str(path)] = file
        found.append(path)
    return tuple(found)


def hand_over(request: Request, context: click.Context) -> int:
    """Let the cluster of `--address` run the command, and end as it does.

    Args:
        request: the options that commands share.
        context: the parsed command line.

    Returns:
        The job's exit code; 0 with `--detach`.

    Raises:
        ValueError: if the command means nothing on another machine, or the cluster does not take it.
    """
    assert request.address is not None, "only a remote command is handed over"
    _require_shared(request.out)
    _require_there("--model", request.model if "model" in context.params else None)
    for name, flag in _FOLDERS.items():
        _require_there(flag, context.params.get(name))
    handover = Handover.of(context)

    from qkatlas.cluster.package import Package
    from qkatlas.outputs.runs.provenance import NOTE, note

    package = Package(code=qkatlas, inputs=handover.inputs, texts={f"qkatlas/{NOTE}": note()})
    dashboard = open_dashboard(request.address)
    job_id = f"{PREFIX}-{context.info_name}-{secrets.token_hex(4)}"
    command = shlex.join(["submit", *handover.arguments])
    try:
        size = _submit(dashboard, job_id, handover.entrypoint(), command, package)
    except (Interrupted, KeyboardInterrupt) as error:
        look = shlex.join(["submit", "jobs", "--address", request.address])
        return interrupted(error, f"interrupted before the cluster confirmed job {job_id}; look for it with: {look}")
    if not request.quiet:
        click.echo(f"job {job_id} is with {request.address} (package of {size / 1e6:.1f} MB)", err=True)
    if not request.detach:
        return follow_to_end(dashboard, job_id, request.address)
    if not request.quiet:
        click.echo(f"next: {_how('logs', job_id, request.address)} --follow", err=True)
        click.echo(f"      {_how('stop', job_id, request.address)}", err=True)
    click.echo(job_id)
    return COMPLETE


def open_dashboard(address: str | None) -> Dashboard:
    """The Jobs API at an address.

    Raises:
        ValueError: if it is no URL of a dashboard, or none answers.
    """
    example = "such as http://localhost:8265"
    if not address:
        raise ValueError(f"no cluster is named; give --address, or RAY_API_SERVER_ADDRESS, a dashboard's URL {example}")
    try:
        parts = urlsplit(address)
        sound = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        sound = False
    if not sound or parts.query or parts.fragment:
        raise ValueError(f"--address {address} is no URL of a dashboard; give one, {example}")
    if parts.username is not None or parts.password is not None:
        raise ValueError("--address holds a user's name; leave it out, and give the cluster's token in RAY_AUTH_TOKEN")
    from qkatlas.cluster.dashboard import Dashboard

    return Dashboard(address)


def follow_to_end(dashboard: Dashboard, job_id: str, address: str) -> int:
    """Show a job's log until it ends.

    Args:
        dashboard: the cluster.
        job_id: the job.
        address: of the cluster, for what to do next.

    Returns:
        The job's exit code; 1 if it has none or the cluster is lost, 128 and its number if a signal comes before
        the job ends.
    """
    from qkatlas.cluster.remote_job import LostDashboardError, UnknownJobError, follow

    again = f"see it with: {_how('logs', job_id, address)} --follow"
    try:
        state = follow(dashboard, job_id, lambda text: click.echo(harmless(text), nl=False))
    except LostDashboardError as error:
        return say(f"error: job {job_id} may go on, but {error}; then {again}", INCOMPLETE)
    except UnknownJobError:
        return say(
            f"error: the cluster at {address} has lost job {job_id}, as a head does that starts anew; submit it again",
            INCOMPLETE,
        )
    except (Interrupted, KeyboardInterrupt) as error:
        return interrupted(error, f"job {job_id} goes on; {again}, or end it with: {_how('stop', job_id, address)}")
    return _end(state)


def _end(state: JobState) -> int:
    """The exit code of a job that has ended, with a line where its own log may not explain it."""
    code = state.exit_code
    if state.status == "SUCCEEDED":
        return COMPLETE
    if state.status == "STOPPED":
        return say(
            f"error: job {state.job_id} was stopped; committed shards are kept, submit it again to go on", INCOMPLETE
        )
    if code in (INCOMPLETE, BAD_REQUEST):
        return code
    if code == _NO_PROGRAM:
        return say(
            "error: the cluster finds no `python` on the PATH of its processes; start Ray with its environment active",
            code,
        )
    if code is None:
        reason = next(iter(state.message.strip().splitlines()), "no reason given")
        return say(f"error: job {state.job_id} failed on the cluster ({reason})", INCOMPLETE)
    return say(f"error: job {state.job_id} ended with exit code {code}", code if 0 < code < 256 else INCOMPLETE)


def _submit(dashboard: Dashboard, job_id: str, entrypoint: str, command: str, package: Package) -> int:
    """Send a job; the bytes of its package."""
    from qkatlas.cluster.remote_job import COMMAND, LostDashboardError

    with tempfile.TemporaryDirectory(prefix="qkatlas-") as folder:
        size = package.write(Path(folder))
        try:
            dashboard.submit(job_id, entrypoint, Path(folder), {COMMAND: command})
        except LostDashboardError as error:
            raise ValueError(
                f"the cluster did not confirm job {job_id} ({error}); look for it with submit jobs"
            ) from error
    return size


def _require_shared(out: str) -> None:
    if "://" not in out and not PurePosixPath(out).is_absolute():
        raise ValueError(
            f"--out {out} is relative, and would lie in the job's own folder on the cluster, which is removed; give a "
            "folder that all nodes share, from the root, or an object store such as s3://bucket/runs"
        )


def _require_there(flag: str, place: str | None) -> None:
    """Check that a model, or a folder of dictionaries, is not one of this machine's."""
    if place is None or PurePosixPath(place).is_absolute():
        return
    if place.startswith((".", "~")) or Path(place).is_dir():
        what, give = ("model", "a hub name, planted, or a") if flag == "--model" else ("folder", "a")
        raise ValueError(
            f"{flag} {place} is a folder of this machine, but the cluster reads the {what}; give {give} folder there, "
            "from the root"
        )


def _how(command: str, job_id: str, address: str) -> str:
    return shlex.join(["submit", command, job_id, "--address", address])
