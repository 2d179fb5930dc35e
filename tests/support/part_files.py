"""Parts on disk, whose names end with the beginning of their hash."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from qkatlas.outputs.runs.part import encoded
from qkatlas.outputs.runs.reader import read_checked
from qkatlas.outputs.runs.run import Run


def part_file(folder: str | os.PathLike[str], path: str) -> Path:
    """The one file of a part, named without its hash: `topk/L1H5/part-00003`."""
    (file,) = Path(folder).glob(f"{path}-*.parquet")
    return file


def unstamped(run: Run) -> dict[str, str]:
    """Hash of each part of a finished run as it were without what it says of the run, by its name without hash."""
    manifest = run.manifest()
    assert manifest is not None
    return {
        part.path.replace(f"-{part.sha256[:12]}", ""): hashlib.sha256(encoded(read_checked(run, part))).hexdigest()
        for part in manifest.parts
    }
