"""Options from a TOML file: the names are those of the command line, and what is typed there goes before."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from qkatlas.jobs.cli.handover import given_parameters
from qkatlas.jobs.loop.option import Option

JOB = "job"
"""The one name in a file that is no option: which job the file is for."""


def config_option(job: str, options: Sequence[Option]) -> click.Option:
    """`--config FILE` of a job's command.

    Args:
        job: name of the command.
        options: all options of it.
    """

    def read(context: click.Context, parameter: click.Parameter, file: str | None) -> None:
        if file is not None:
            context.default_map = read_config(Path(file), job, options)

    said = "Options from a TOML file, by the same names; what is typed goes before. submit rerun RUN --show prints one."
    return click.Option(
        ["--config"], metavar="FILE", help=said, callback=read, is_eager=True, expose_value=False, type=str
    )


def read_config(file: Path, job: str, options: Sequence[Option]) -> dict[str, Any]:
    """The options that a file gives, by the names of their fields.

    Args:
        file: in TOML, such as `top-k = 32`; a list stands for values apart by commas.
        job: name of the command; the file's own `job`, if it has one, must be the same.
        options: all options of it.

    Raises:
        ValueError: if the file cannot be read, names what is no option, or a value is of the wrong kind.
    """
    try:
        found = tomllib.loads(file.read_bytes().decode())
    except OSError as error:
        raise ValueError(f"--config {file} cannot be read ({error.strerror}); give a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {file} is no TOML ({error}); write lines such as top-k = 32") from error
    if found.pop(JOB, job) != job:
        raise ValueError(f"--config {file} is for another job; submit that one, or take its line {JOB} out")
    by_name = {option.flag.removeprefix("--"): option for option in options}
    by_name |= {option.name: option for option in options}
    values = {}
    for name, value in found.items():
        option = by_name.get(name)
        if option is None:
            near = get_close_matches(name, [option.flag.removeprefix("--") for option in options], 1)
            hint = f"did you mean {near[0]}? or see" if near else "see"
            raise ValueError(f"--config {file}: {name!r} is no option of {job}; {hint} submit {job} --help")
        if option.name in values:
            raise ValueError(f"--config {file} gives {option.flag} twice; keep one")
        values[option.name] = _typed(value, option, file)
    return values


def write_config(job: str, values: Mapping[str, Any], options: Sequence[Option]) -> str:
    """A file that `read_config` reads.

    Args:
        job: name of the command.
        values: of its options, by the names of fields.
        options: all options of it.
    """
    flags = {option.name: option.flag.removeprefix("--") for option in options}
    lines = [f"{JOB} = {_quoted(job)}"]
    for name, value in values.items():
        written = _quoted(value) if isinstance(value, str) else json.dumps(value)
        lines.append(f"{flags[name]} = {written}")
    return "\n".join(lines)


def words_of(context: click.Context) -> list[str]:
    """A parsed command as it would be typed without a file: its name, and every option that was given.

    Args:
        context: of the command.
    """
    words, last = [str(context.info_name)], []
    for parameter, value in given_parameters(context):
        if isinstance(parameter, click.Argument):
            last.append(str(value))
        elif isinstance(value, bool):
            words.append((parameter.opts if value else parameter.secondary_opts or parameter.opts)[0])
        else:
            words += [parameter.opts[0], *map(str, value if isinstance(value, tuple) else [value])]
    return [*words, *(["--", *last] if last else [])]


def _typed(value: Any, option: Option, file: Path) -> Any:
    """A value as click takes it for an option: its text where the option is one."""
    if isinstance(value, list) and option.parse is not None:
        return ",".join(map(str, value))
    if option.pair:
        if not (isinstance(value, list) and len(value) == 2 and all(isinstance(one, str) for one in value)):
            raise ValueError(
                f"--config {file}: {option.flag} is {json.dumps(value, default=str)}; give a list of two texts"
            )
        return value
    kinds = {bool: (bool,), int: (int,), float: (int, float), str: (str, int, float)}[option.kind]
    if not isinstance(value, kinds) or (isinstance(value, bool) and option.kind is not bool):
        wanted = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[option.kind]
        raise ValueError(f"--config {file}: {option.flag} is {json.dumps(value, default=str)}; give {wanted}")
    return str(value) if option.kind is str else value


def _quoted(text: str) -> str:
    """A text as TOML and JSON both write it."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
