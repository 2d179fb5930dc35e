"""Where this user's machine keeps what can be made again: planted checkpoints, and token states."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The user's cache: `QKATLAS_CACHE`, else `qkatlas` in `XDG_CACHE_HOME`, else in ~/.cache.

    Raises:
        ValueError: if none of them names a folder.
    """
    if os.environ.get("QKATLAS_CACHE"):
        return Path(os.environ["QKATLAS_CACHE"])
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if folder.startswith("~"):  # as for the user of a container, who is in no list of users
        raise ValueError("this user has no home to keep a cache in; set QKATLAS_CACHE to a folder")
    return Path(folder) / "qkatlas"


def kept_in(name: str) -> Path | None:
    """Folder of the cache for what is only kept to be faster; None where there is no cache.

    Args:
        name: of the folder.
    """
    try:
        return cache_folder() / name
    except ValueError:
        return None
