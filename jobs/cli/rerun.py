"""`submit rerun`: a finished run's own request once more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from qkatlas.jobs.cli.command import options_of_command, out_option
from qkatlas.jobs.cli.config import write_config
from qkatlas.jobs.cli.ending import COMPLETE
from qkatlas.jobs.cli.handover import given_parameters
from qkatlas.jobs.loop.request import IN_MEMORY
from qkatlas.jobs.loop.terminal import harmless

if TYPE_CHECKING:
    from qkatlas.jobs.loop.declaration import Declaration
    from qkatlas.outputs.runs.manifest import Manifest
    from qkatlas.outputs.runs.run import Run

_WHERE = ("out", "quiet", "verbose", "gpus", "in_process", "wait")
"""Options that say where and how a run was made, and not what it is."""


def rerun_command(declarations: Mapping[str, Declaration], commands: Mapping[str, click.Command]) -> click.Command:
    """`submit rerun RUN`.

    Args:
        declarations: all jobs, by name.
        commands: their commands, by name.
    """

    @click.command("rerun")
    @click.argument("run_name", metavar="RUN")
    @out_option
    @click.option("--into", metavar="DIR_OR_URI", help="Folder for the new run.  [default: the one of the old]")
    @click.option("--show", is_flag=True, help="Print the settings as a file for --config, and compute nothing.")
    def rerun(run_name: str, out: str, into: str | None, show: bool) -> int:
        """Submit the request of a finished run again, or print it as a file for --config."""
        from qkatlas.outputs.places.open import open_folder
        from qkatlas.outputs.runs import store

        run = store.find(open_folder(out), run_name)
        manifest = run.manifest()
        if manifest is None:
            raise ValueError(f"run {run.folder.name} is not finished; submit the same request again to finish it")
        job = manifest.request.job
        if job not in declarations:
            raise ValueError(
                f"run {run.folder.name} is of {job}, which is no job of this version; install the one it had"
            )
        settings = _settings(run, manifest, declarations[job], commands[job])
        if show:
            click.echo(harmless(write_config(job, settings, options_of_command(declarations[job]))))
            return COMPLETE
        target = into or str(run.folder.parent)
        before = _names(target)
        with commands[job].make_context(job, [], default_map={**settings, "out": target}) as context:
            code: int = commands[job].invoke(context)
        made = _names(target) - before
        if code == COMPLETE and made and run.folder.name not in made:
            changed = (
                f"this is another run than {run.folder.name}: its model or a file has changed, or what tables mean"
            )
            click.echo(harmless(changed, one_line=True))
        return code

    return rerun


def _names(out: str) -> set[str]:
    """Names of the runs in a folder."""
    from qkatlas.outputs.places.open import open_folder
    from qkatlas.outputs.runs import store

    return {run.folder.name for run in store.all_runs(open_folder(out))}


def _texts(value: Any) -> str | list[str]:
    """What was typed for an option, or both of a pair."""
    return list(map(str, value)) if isinstance(value, tuple) else str(value)


def _settings(run: Run, manifest: Manifest, declaration: Declaration, command: click.Command) -> dict[str, Any]:
    """What a run was asked for, by the names of options: as it was typed, and of the rest what its manifest holds.

    Defaults of an earlier version are in the manifest, so that today's do not take their place.

    Raises:
        ValueError: if the manifest names no command, or one that nothing here can ask for.
    """
    origin, job = manifest.provenance, manifest.request.job
    argv = list(origin.argv) if origin else []
    if job not in argv:
        raise ValueError(f"run {run.folder.name} does not say by which command it was made; submit it by its settings")
    typed = argv[argv.index(job) + 1 :]
    if IN_MEMORY in typed:
        raise ValueError(f"run {run.folder.name} was made of values in a program's memory; ask for it there")
    context = command.make_context(job, typed)
    given = {str(parameter.name): value for parameter, value in given_parameters(context)}
    settings = {
        name: value if isinstance(value, bool | int | float) else _texts(value)
        for name, value in given.items() if name not in _WHERE
    }  # fmt: skip
    if declaration.opens_model and origin is not None and origin.model is not None:
        settings["model"] = origin.model
    for option in declaration.options:
        value = manifest.request.spec.get(option.name)
        if option.name == "prefix" and isinstance(value, list):
            value = ",".join(f"#{token_id}" for token_id in value)
        if option.name not in settings and isinstance(value, bool | int | float | str):
            settings[option.name] = value
    return settings
