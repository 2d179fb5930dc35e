"""How values of options are typed: choices that a shell completes, and files of this machine."""

from __future__ import annotations

import os
import select
import stat
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

_WRITER_SECONDS = 3.0
"""How long a named pipe may be without anything written to it."""


class InputFile(click.Path):
    """A file of this machine that a job reads: it travels with a job that is handed to a cluster."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, readable=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The file's path.

        Raises:
            ValueError: if reading it would never end, or its name is none.
        """
        option = param.opts[0] if param is not None else "the file"
        name = os.fspath(value)
        if not name or "\0" in name:
            raise ValueError(f"{option} {name!r} is no name of a file; name one that can be read")
        try:
            kind = os.stat(name).st_mode
        except OSError:  # whoever reads it says so
            return super().convert(value, param, ctx)
        if stat.S_ISCHR(kind) or stat.S_ISBLK(kind):
            raise ValueError(f"{option} {name} is a device; name a file")
        if stat.S_ISFIFO(kind) and not _is_written(name):
            raise ValueError(f"{option} {name} is a pipe that nobody writes to; name a file, or start the writer first")
        return super().convert(value, param, ctx)


def _is_written(pipe: str) -> bool:
    """Whether somebody has opened a pipe to write, or will in a moment; opening it to read waits for that."""
    if os.path.realpath(pipe).startswith("/proc/"):  # one without a name, as of `<(...)`: it has its writer
        return True
    descriptor = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return bool(select.select([descriptor], [], [], _WRITER_SECONDS)[0])
    finally:
        os.close(descriptor)


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
