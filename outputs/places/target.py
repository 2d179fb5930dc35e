"""Files that a user names for a job to write, beside the runs."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def require_replaceable(file: Path, option: str, *, mark: bytes, within: int, kind: str) -> None:
    """Check that writing a file destroys nothing but an earlier file of its kind.

    Args:
        file: where it shall be.
        option: that named it, for the message.
        mark: bytes that every file of the kind holds.
        within: how many bytes from its beginning.
        kind: what the files are called, such as `report`.

    Raises:
        ValueError: if something else is there, or the folder belongs to a run.
    """
    if os.path.lexists(file):  # a link that leads nowhere is somebody's, too
        begins = b""
        if file.is_file():
            with suppress(OSError), file.open("rb") as stream:  # what cannot be read is none of ours
                begins = stream.read(within)
        if mark not in begins:
            raise ValueError(f"{option} {file} is no {kind} and is left alone; choose another file, or remove it first")
    for folder in Path(os.path.realpath(file)).parents:
        if (folder / "manifest.json").exists():
            raise ValueError(f"{option} {file} is in {folder}, which holds a run; choose a file outside it")
