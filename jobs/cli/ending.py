"""How a command ends: its exit code, and its last line on stderr; and how it shows what others wrote."""

from __future__ import annotations

import re

import click

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


def harmless(text: str, *, one_line: bool = False) -> str:
    """Text that others wrote, such as a cluster or a record, for a terminal that would obey its control characters.

    Args:
        text: what was written there.
        one_line: whether ends of lines are control characters too.
    """
    controls = r"\x00-\x1f\x7f-\x9f\u2028\u2029" if one_line else r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
    # Beside these: what turns the direction of a line, and halves of characters, which no terminal can show.
    return re.sub(
        rf"[{controls}\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", lambda found: repr(found[0])[1:-1], text
    )
