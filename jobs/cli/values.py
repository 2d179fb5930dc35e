"""How values of options are typed: choices that a shell completes, and files of this machine."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem


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
        require_name(option, name)
        try:
            kind = os.stat(name).st_mode
        except OSError:  # whoever reads it says so
            return super().convert(value, param, ctx)
        if stat.S_ISCHR(kind) or stat.S_ISBLK(kind):
            raise ValueError(f"{option} {name} is a device; name a file")
        # Opening one waits for a writer, perhaps for ever, and asking for one beforehand takes what it has written. A
        # pipe without a name, as of `<(...)`, has its writer.
        if stat.S_ISFIFO(kind) and not os.path.realpath(name).startswith("/proc/"):
            raise ValueError(f"{option} {name} is a named pipe; name a file, or write <(COMMAND) in place of it")
        return super().convert(value, param, ctx)


class OutputFile(click.Path):
    """A file of this machine that a job writes."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The file's path.

        Raises:
            ValueError: if its name is none.
        """
        require_name(param.opts[0] if param is not None else "the file", os.fspath(value))
        return super().convert(value, param, ctx)


def require_name(option: str, name: str) -> None:
    """Check that a file can be so called: an empty name would mean the working directory.

    Raises:
        ValueError: if none can.
    """
    if not name.strip() or "\0" in name:
        raise ValueError(f"{option} {name!r} is no name of a file; name one")


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
