"""How text that others wrote is shown in a terminal."""

from __future__ import annotations

import re


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
