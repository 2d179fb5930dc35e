"""How a command ends: its exit code, and its last line on stderr."""

from __future__ import annotations

import click

COMPLETE, INCOMPLETE, BAD_REQUEST, INTERRUPTED = 0, 1, 2, 130
"""Exit codes."""


def say(message: str, code: int) -> int:
    """Print a line on stderr.

    Args:
        message: the line.
        code: the exit code it explains.

    Returns:
        The exit code.
    """
    click.echo(f"submit: {message}", err=True)
    return code
