"""Commands from what jobs declare: every option stands on a field of a spec, and becomes one of the command here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import click

from qkatlas.jobs.cli.config import config_option, words_of
from qkatlas.jobs.cli.ending import COMPLETE, INCOMPLETE, say
from qkatlas.jobs.cli.handover import hand_over
from qkatlas.jobs.cli.values import Choice, InputFile, OutputFile
from qkatlas.jobs.loop.option import Option, options_of
from qkatlas.jobs.loop.request import Request

if TYPE_CHECKING:
    from qkatlas.jobs.loop.declaration import Declaration


def command_of(declaration: Declaration) -> click.Command:
    """The command that submits a job.

    Args:
        declaration: of the job.
    """

    def run(**given: Any) -> int:
        context = click.get_current_context()
        typed = Request(**taken(Request, given))
        request = typed if declaration.uses_gpus else _without_gpus(typed, declaration.name)
        if request.is_remote:
            return hand_over(request, context)
        common = {option.name: getattr(request, option.name) for option in declaration.options if option.common}
        spec = declaration.spec(**(taken(declaration.spec, given) | common))

        # Loaded only now, so that a request that is refused by its words alone is refused at once.
        from qkatlas.jobs.loop.result import IncompleteError
        from qkatlas.jobs.loop.session import Session
        from qkatlas.jobs.plan.size import runs_here

        request = replace(request, in_process=runs_here(typed, declaration, spec, typed.model))
        try:
            # Of a file of options the manifest tells what it said: it may change.
            argv = ["submit", *words_of(context)] if context.default_map else None
            with Session(request, argv=argv) as session:
                job = declaration.load(declaration.job).open(spec, session)
                result = session.submit(job, verbose=request.verbose)
            session.report(result, job)
        except IncompleteError as error:  # of the job, or of one that it stands on
            return say(f"error: {error}", INCOMPLETE)
        return COMPLETE

    options = options_of_command(declaration)
    params = [*parameters(options), config_option(declaration.name, options)]
    return click.Command(declaration.name, callback=run, params=params, help=declaration.summary)


def options_of_command(declaration: Declaration) -> list[Option]:
    """All options of a job's command: its own, then those that jobs share.

    Args:
        declaration: of the job.
    """
    own = [option for option in declaration.options if not option.common]
    shared = [option for option in options_of(Request) if declaration.opens_model or option.name != "model"]
    if not declaration.uses_gpus:
        shared = [_no_gpus(option) if option.name == "gpus" else option for option in shared]
    return [*own, *shared]


def _no_gpus(option: Option) -> Option:
    return replace(option, metavar="0", help="None: it runs on CPUs.", shown_default="0")


def _without_gpus(request: Request, job: str) -> Request:
    """The request of a job that runs on CPUs alone.

    Raises:
        ValueError: if it asks for GPUs.
    """
    if request.gpus:
        raise ValueError(f"--gpus {request.gpus} is more than {job} can use, which runs on CPUs; leave it out")
    return replace(request, gpus=0)


def out_option(command: Any) -> Any:
    """Add `--out` to a command that reads the store."""
    (out,) = [option for option in options_of(Request) if option.name == "out"]
    return click.option(
        out.flag, default=out.default, show_default=True, metavar=out.metavar, help="Folder of the runs, or its URI."
    )(command)


def parameters(options: Iterable[Option]) -> list[click.Parameter]:
    """The parameters of a command, one an option."""
    return [_argument(option) if option.argument else _option(option) for option in options]


def taken(spec: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a spec's options among those that were typed, each made of its text or file.

    Options that were not given are left to the spec's own defaults.

    Args:
        spec: the dataclass.
        given: values by the names of fields.

    Raises:
        ValueError: if a text or a file is malformed.
    """
    known = {field.name for field in fields(spec)}
    found = {}
    for option in options_of(spec):
        value = given.get(option.name)
        if option.name not in known or value is None:
            continue
        if option.read is not None:
            value = tuple(map(option.read, value)) if option.pair else option.read(value)
        elif option.parse is not None and isinstance(value, str):
            value = option.parse(option.flag, value)
        found[option.name] = value
    return found


def _argument(option: Option) -> click.Argument:
    # One that may be left out says what happens then.
    return click.Argument([option.name], metavar=option.metavar, required=not option.shown_default)


def _option(option: Option) -> click.Option:
    said = option.help + (f"  [default: {option.shown_default}]" if option.shown_default else "")
    if option.kind is bool:
        flags = option.flag if option.default is False else f"{option.flag}/{option.says_no}"
        return click.Option([flags, option.name], is_flag=True, default=option.default, help=said,
                            show_default=bool(option.default))  # fmt: skip
    kind: Any = option.kind
    if option.read is not None:
        kind = InputFile()
    elif option.writes:
        kind = OutputFile()
    elif option.choices:
        kind = Choice(option.choices)
    elif option.parse is not None:
        kind = str
    typed = option.default if isinstance(option.default, str | int | float) else None
    shown = typed is not None and not option.shown_default
    how_many: dict[str, Any] = {} if option.bare is None else {"is_flag": False, "flag_value": option.bare}
    if option.pair:
        how_many = {"nargs": 2}
    return click.Option(
        [option.flag, option.name], type=kind, default=typed, show_default=shown, metavar=option.metavar, help=said,
        **how_many,
    )  # fmt: skip
