"""A function for each job, made of what the job declares: its spec's fields are the keywords."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, Protocol, get_args, get_type_hints

from qkatlas.jobs.inputs.loaded import LoadedModel
from qkatlas.jobs.library.opened import OpenedRun
from qkatlas.jobs.loop.declaration import Declaration
from qkatlas.jobs.loop.option import Option, options_of
from qkatlas.jobs.loop.request import IN_MEMORY, Request
from qkatlas.jobs.loop.session import Session
from qkatlas.jobs.plan.size import runs_here
from qkatlas.pipeline.models.memory import is_loaded

_SHARED = {"out": "runs", "gpus": None, "address": None, "wait": None, "in_process": None, "quiet": False}
"""Keywords that all jobs share, and their defaults; `in_process=None` goes by the size of the job."""

_SAID = {
    "model": "a name, a model directory or a GGUF file as `--model` takes it; or a transformers model or a "
    "TransformerBridge in memory.",
    "tokenizer": "of a model in memory: its tokenizer, or the name, directory or GGUF file of a model that has it; "
    "None = its own, where it is known.",
    "in_process": "True = in this process, False = with Ray; None = in this process if it is small.",
    "out": "folder of all runs, or its URI.",
}


class JobFunction(Protocol):
    """Submits a job and opens its run; a run that is there already is opened at once."""

    def __call__(self, subject: Any, /, **keywords: Any) -> OpenedRun:
        """Submit the job."""
        ...


def function_of(declaration: Declaration) -> JobFunction:
    """The function that submits a job, with a signature and a text of its own.

    Args:
        declaration: of the job.
    """
    signature = signature_of(declaration)

    def submit(*args: Any, **keywords: Any) -> OpenedRun:
        bound = signature.bind(*args, **keywords)
        return _submitted(declaration, bound.arguments)

    submit.__name__ = submit.__qualname__ = declaration.name.replace("-", "_")
    submit.__module__ = "qkatlas"
    submit.__doc__ = _text(declaration, signature)
    submit.__signature__ = signature  # type: ignore[attr-defined]
    return submit


def signature_of(declaration: Declaration) -> inspect.Signature:
    """What a job's function takes: the model or run, the spec's fields, and what all jobs share.

    Args:
        declaration: of the job.
    """
    first = [option.name for option in declaration.options if option.argument]
    if declaration.opens_model:
        first.insert(0, "model")
    defaults = {field.name: field.default for field in fields(declaration.spec)}
    places = [
        inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=inspect.Parameter.empty if defaults.get(name, MISSING) is MISSING else defaults[name],
        )
        for name in first
    ]
    own = {name: default for name, default in defaults.items() if name not in first}
    shared = {**({"tokenizer": None} if declaration.opens_model else {}), **_SHARED}
    if not declaration.uses_gpus:
        del shared["gpus"]
    hints = annotations_of(declaration)
    named = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if default is MISSING else default,
            annotation=hints.get(name, inspect.Parameter.empty),
        )
        for name, default in (own | shared).items()
    ]
    return inspect.Signature([*places, *named], return_annotation="OpenedRun")


def annotations_of(declaration: Declaration) -> Mapping[str, str]:
    """Types of a job's keywords, as they are written; what is parsed or read may be given as a text or a file too.

    Args:
        declaration: of the job.
    """
    options = {option.name: option for option in declaration.options}
    found = {}
    for field in fields(declaration.spec):
        option, kinds = options.get(field.name), str(field.type).split(" | ")
        more = ["str"] if option and (option.parse or option.read or option.writes) else []
        more += ["Path"] if option and option.read else []
        kinds = list(dict.fromkeys([*kinds, *more]))
        found[field.name] = " | ".join(sorted(kinds, key=lambda kind: kind == "None"))
    return found | {
        "tokenizer": "Any", "out": "str | os.PathLike[str]", "gpus": "int | None", "address": "str | None",
        "wait": "int | None", "in_process": "bool | None", "quiet": "bool",
    }  # fmt: skip


def _submitted(declaration: Declaration, given: Mapping[str, Any]) -> OpenedRun:
    model: str | LoadedModel = ""
    if declaration.opens_model:
        named = given["model"]
        if isinstance(named, str | os.PathLike):
            if given.get("tokenizer") is not None:
                raise ValueError("tokenizer= belongs to a model in memory; a model of files has its own beside them")
            model = os.fspath(named)
        elif is_loaded(named):
            model = LoadedModel(named, given.get("tokenizer"))
        else:
            raise ValueError(
                f"model {type(named).__name__} is no model; give a name, a directory, a GGUF file, a transformers "
                "model or a TransformerBridge"
            )
    hints = get_type_hints(declaration.spec)
    options = {option.name: option for option in declaration.options}
    own = {field.name for field in fields(declaration.spec)}
    values = {
        name: _value(value, options[name], hints[name]) if name in options else value
        for name, value in given.items() if name in own
    }  # fmt: skip
    spec = declaration.spec(**values)
    shared = {name: value for name, value in given.items() if name in _SHARED and value is not None}
    if "out" in shared:
        shared["out"] = os.fspath(shared["out"])
    if "seed" in values:
        shared["seed"] = values["seed"]
    request = Request(**{**shared, "model": model if isinstance(model, str) else model.name})
    here = runs_here(request, declaration, spec, model)
    if not declaration.uses_gpus:
        request = replace(request, gpus=0)
    request = replace(request, in_process=here)
    argv = command_line(declaration, given, request)
    loaded = model if isinstance(model, LoadedModel) else None
    with Session(request, loaded=loaded, argv=argv) as session:
        job = declaration.load(declaration.job).open(spec, session)
        return OpenedRun(session.submit(job).require_complete())


def _value(value: Any, option: Option, hint: Any) -> Any:
    """A value of a spec's field, made of the text or file that stands for it."""
    if isinstance(value, OpenedRun):
        return value.folder
    if option.pair and isinstance(value, tuple | list):
        return tuple(_value(one, replace(option, pair=False), Path) for one in value)
    texts = str in (get_args(hint) or (hint,))
    if option.read is not None and (isinstance(value, os.PathLike) or (isinstance(value, str) and not texts)):
        return option.read(Path(value))
    if option.parse is not None and isinstance(value, str):
        return option.parse(option.flag, value)
    if option.writes and isinstance(value, str):
        return Path(value)
    if isinstance(value, os.PathLike) and not option.writes:
        return os.fspath(value)
    return tuple(value) if isinstance(value, list) else value


def command_line(declaration: Declaration, given: Mapping[str, Any], request: Request) -> list[str]:
    """The command that asks for the same, for the manifest.

    Args:
        declaration: of the job.
        given: what the function was given.
        request: what of it all jobs share.
    """
    words, last = ["submit", declaration.name], []
    if declaration.opens_model:
        words += ["--model", request.model if isinstance(given["model"], str | os.PathLike) else IN_MEMORY]
    options = {option.name: option for option in (*options_of(Request), *declaration.options) if option.name != "model"}
    for name, value in given.items():
        option = options.get(name)
        if option is None or value is None:
            continue
        if isinstance(value, bool):
            if value != bool(option.default):
                words.append(option.flag if value else option.says_no)
        elif option.argument:
            last.append(value.folder if isinstance(value, OpenedRun) else os.fspath(value))
        else:
            words += [option.flag, *(_written(one, option) for one in (value if option.pair else [value]))]
    return [*words, *last]


def _written(value: Any, option: Option) -> str:
    if isinstance(value, os.PathLike) or (isinstance(value, str) and not (option.read and "\n" in value)):
        return os.fspath(value)
    if isinstance(value, int | float):
        return str(value)
    if option.read is None and isinstance(value, tuple | list):
        return ",".join(map(str, value))
    return IN_MEMORY


def _text(declaration: Declaration, signature: inspect.Signature) -> str:
    help_of = {option.name: option.help for option in (*options_of(Request), *declaration.options)}
    lines = [
        f"    {name}: {_SAID.get(name) or help_of.get(name, 'for programs alone.')}" for name in signature.parameters
    ]
    first = "\n".join([declaration.summary, "", "Args:", *lines, ""])
    return first + (
        "\nReturns:\n    The finished run, opened. One that was there already is opened at once.\n"
        "\nRaises:\n    ValueError: if the request cannot be met; the line says what to change.\n"
        "    IncompleteError: if some shard could not be computed; what was committed is kept.\n"
    )
