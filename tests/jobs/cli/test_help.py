"""Help: every command in its section, nothing cut at 80 columns, and examples that the command line takes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from qkatlas.jobs.main import run, submit

ROOT = Path(__file__).parents[3]


def commands(command: click.Command = submit, *path: str) -> Iterator[tuple[str, ...]]:
    """The path of every command that help shows."""
    if path:
        yield path
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            if not inner.hidden:
                yield from commands(inner, *path, name)


def help_of(capsys: pytest.CaptureFixture[str], *path: str) -> str:
    assert run([*path, "-h"]) == 0
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_commands_are_listed_once_each_under_what_they_are_for(capsys: pytest.CaptureFixture[str]) -> None:
    printed = help_of(capsys)
    assert "..." not in printed.partition("\n")[2]  # after `[ARGS]...`
    assert max(map(len, printed.splitlines())) <= 80
    listed = re.findall(r"^  ([a-z][a-z-]*)  ", printed, re.MULTILINE)
    assert sorted(listed) == sorted(submit.commands)
    sections = {text.partition(":\n")[0]: text for text in printed.split("\n\n")}
    assert "  full-vocab  " in sections["Jobs, which compute a run"]
    assert "  publish  Write a run as a data set with a card, to a folder or" in sections["What a finished run says"]
    assert "hf://datasets/OWNER/NAME" in sections["What a finished run says"]


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_each_has_an_example_that_is_taken_and_a_page_that_is_there(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    printed = help_of(capsys, *path)
    assert max(map(len, printed.splitlines())) <= 80
    found = re.search(r"Example:\n +(submit .*)\n", printed)
    assert found is not None
    words = shlex.split(found[1])[1:]
    assert tuple(words[: len(path)]) == path
    command: click.Command = submit
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    with command.make_context(path[-1], words):
        pass
    page = re.search(r"More in (\S+)", printed)
    assert page is not None
    file, _, anchor = page[1].partition("#")
    headings = re.findall(r"^#+ (.*)$", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert anchor in {*anchors, ""}


def test_every_command_that_prints_a_table_gives_json(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("runs", "status", "verify", "show", "find", "relations", "diff", "sql", "jobs", "plan full-vocab"):
        assert "--json" in help_of(capsys, *name.split()), name
