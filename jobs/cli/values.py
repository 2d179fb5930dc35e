"""How values of options are typed: choices that a shell completes, and files of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem


class InputFile(click.Path):
    """A file of this machine that a job reads: it travels with a job that is handed to a cluster."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, readable=False)


class Choice(click.ParamType[str]):
    """One of a few words: shown in help, completed by the shell; checked by the spec, as programs are."""

    name = "choice"

    def __init__(self, choices: tuple[str, ...]) -> None:
        self._choices = choices

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """The choices, as click shows its own."""
        return f"[{'|'.join(self._choices)}]"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Those that go on from what is typed."""
        return [CompletionItem(choice) for choice in self._choices if choice.startswith(incomplete)]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The word as it was typed."""
        return str(value)
