"""How a command ends: its exit code, and its last line on stderr; and how it shows what others wrote."""

from __future__ import annotations

import re

import click

COMPLETE, INCOMPLETE, BAD_REQUEST, SIGNALLED = 0, 1, 2, 128
"""Exit codes; the last is added to a signal's number."""


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


def harmless(text: str, *, one_line: bool = False) -> str:
    """Text of a cluster, whose jobs need not be ours, for a terminal that would obey its control characters.

    Args:
        text: what was written there.
        one_line: whether ends of lines are control characters too.
    """
    controls = r"[\x00-\x1f\x7f-\x9f\u2028\u2029]" if one_line else r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
    return re.sub(controls, lambda found: repr(found[0])[1:-1], text)
