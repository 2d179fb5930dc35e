"""Declarations: every job is found, is known without its code, and is all that it says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import is_dataclass

import click
import pytest

from qkatlas.jobs.loop.declaration import Declaration, declarations
from qkatlas.jobs.loop.job import Job
from qkatlas.jobs.loop.option import options_of
from qkatlas.jobs.loop.request import Request
from qkatlas.jobs.main import submit

DECLARED = declarations()

SHARED = {"--gpus", "--out", "--address", "--detach", "--wait", "--in-process", "--seed", "--quiet"}
OF_MODEL = {"--head", "--states", "--scores", "--model"}
PROMPTS = {"--prompts", "--length", "--categories"}
OPTIONS: Mapping[str, set[str]] = {
    "full-vocab": OF_MODEL | {"--top-k", "--shards"},
    "head-scan": OF_MODEL - {"--head"} | PROMPTS | {"--layers", "--heads", "--top-k"},
    "ablation": PROMPTS | {"--model", "--head", "--targets", "--layers", "--kind", "--loss", "--no-loss", "--text"},
    "steering": OF_MODEL
    | {"--methods", "--alpha", "--skew", "--eigenvalues", "--draws", "--rank", "--scale", "--step", "--move"}
    | {"--sample", "--group", "--in-model", "--prompts", "--length", "--top-k"},
    "similarity": OF_MODEL | {"--bins", "--frequencies", "--most-frequent"},
    "communities": {"--neighbours", "--symmetrise", "--quality", "--resolution", "--restarts", "--frequencies"}
    | {"--most-frequent", "--export"},
    "reproduce": {"--model", "--frequencies"},
}
"""What people have in their scripts: these options stay."""


def test_the_jobs_are_the_packages_that_declare_one() -> None:
    assert set(DECLARED) <= set(submit.commands)
    assert {"full-vocab", "similarity", "steering"} <= set(DECLARED)
    for name, declared in DECLARED.items():
        assert declared.name == name
        assert declared.package == f"qkatlas.jobs.{name.replace('-', '_')}"
        assert submit.commands[name].help == declared.summary


@pytest.mark.parametrize("name", DECLARED)
def test_no_option_of_a_command_was_lost(name: str) -> None:
    command = submit.commands[name]
    flags = {
        flag
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for flag in (*parameter.opts, *parameter.secondary_opts)
    }
    assert flags >= SHARED | OPTIONS.get(name, set())
    with click.Context(command, info_name=name) as context:
        helped = set(re.findall(r"--[a-z-]+", command.get_help(context)))
    assert helped >= flags


@pytest.mark.parametrize("name", DECLARED)
def test_every_option_has_help_and_one_name(name: str) -> None:
    declared = DECLARED[name]
    assert is_dataclass(declared.spec)
    assert declared.options == options_of(declared.spec)
    typed = [option for option in (*declared.options, *options_of(Request)) if not option.common]
    assert len({option.flag for option in typed}) == len(typed)
    for option in declared.options:
        assert option.help.endswith(".")
        option.check(option.default)
        if option.common:
            assert option.name in {shared.name for shared in options_of(Request)}


@pytest.mark.parametrize("name", DECLARED)
def test_a_declaration_names_what_is_there(name: str) -> None:
    declared = DECLARED[name]
    job = declared.load(declared.job)
    assert issubclass(job, Job)
    assert job.name == name
    names = [table.name for table in job.tables]
    assert len(set(names)) == len(names)
    assert set(job.shows) <= set(names)
    assert job.look[0].removesuffix(".parquet") in {table.folder for table in job.tables}
    if declared.plan:
        assert callable(declared.load(declared.plan))


@pytest.mark.parametrize("name", DECLARED)
def test_help_and_refusals_load_none_of_the_code_of_a_job(name: str) -> None:
    program = (
        "import sys; from qkatlas.jobs.main import run\n"
        "codes = [run([*sys.argv[1:], '--help']), run([*sys.argv[1:], '--seed', '-1']), run([*sys.argv[1:], '--no'])]\n"
        "heavy = {'torch', 'ray', 'transformers', 'numba', 'igraph', 'scipy', 'pyarrow', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'{codes} {heavy}' if codes != [0, 2, 2] or heavy else 0)"
    )
    arguments = [name, *("x" for option in DECLARED[name].options if option.argument)]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_reference_that_names_nothing_is_found_out() -> None:
    declared = Declaration(name="x", summary="X.", spec=Request, package="qkatlas.jobs.loop", job="job:Nothing")
    with pytest.raises(AttributeError, match="Nothing"):
        declared.load(declared.job)
