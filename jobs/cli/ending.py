"""How a command ends: its exit code, and its last line on stderr."""

from __future__ import annotations

import re

import click

from qkatlas.jobs.loop.terminal import harmless

COMPLETE, INCOMPLETE, BAD_REQUEST, SIGNALLED = 0, 1, 2, 128
"""Exit codes; the last is added to a signal's number."""

_LONGEST = 500
"""Characters of a name that a line shows whole."""


def say(message: str, code: int) -> int:
    """Print a line on stderr.

    Args:
        message: the line.
        code: the exit code it explains.

    Returns:
        The exit code.
    """
    short = re.sub(rf"\S{{{_LONGEST},}}", lambda found: f"{found[0][:100]}... ({len(found[0])} characters)", message)
    click.echo(f"submit: {harmless(short, one_line=True)}", err=True)
    return code
