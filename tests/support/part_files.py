"""Parts on disk, whose names end with the beginning of their hash."""

from __future__ import annotations

import os
from pathlib import Path


def part_file(folder: str | os.PathLike[str], path: str) -> Path:
    """The one file of a part, named without its hash: `topk/layer=1/head=5/part-00003`."""
    (file,) = Path(folder).glob(f"{path}-*.parquet")
    return file
