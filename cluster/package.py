"""What travels to a cluster with a job: our code and the files that its command names."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

LARGEST = 20_000_000
"""Bytes of a package. Ray's dashboard refuses about 100 MiB, and keeps every package in the memory of the head."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """Files of a job, before any is copied.

    Raises:
        ValueError: if they are too large together.
    """

    code: ModuleType
    """Our package, with its data; caches and hidden files stay behind."""
    inputs: Mapping[str, Path] = field(default_factory=dict)
    """Files of this machine, by their path in the package."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Contents of further files, by their path in the package."""

    def __post_init__(self) -> None:
        sizes = {str(source): source.stat().st_size for source in self._sources().values()}
        total = sum(sizes.values()) + sum(len(text.encode()) for text in self.texts.values())
        if total > LARGEST:
            largest = max(sizes, key=sizes.__getitem__)
            raise ValueError(
                f"the job's package is {total / 1e6:.1f} MB, above the limit of {LARGEST / 1e6:.0f} MB ({largest} is "
                f"{sizes[largest] / 1e6:.1f} MB of it); make that smaller, or run the command on a node of the cluster"
            )

    def write(self, folder: Path) -> int:
        """Copy everything.

        Args:
            folder: an empty folder.

        Returns:
            Bytes, as they lie there.
        """
        for path, source in self._sources().items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / path)
        for path, text in self.texts.items():
            (folder / path).write_text(text, encoding="utf-8")
        return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())

    def _sources(self) -> dict[str, Path]:
        """The file that goes to each path."""
        return dict(_files(self.code)) | dict(self.inputs)


def _files(package: ModuleType) -> Iterator[tuple[str, Path]]:
    assert package.__file__ is not None, "our package has an __init__.py"
    root = Path(package.__file__).parent
    # In a checkout the four folders are links.
    for folder, inner, names in os.walk(root, followlinks=True):
        inner[:] = sorted(name for name in inner if not name.startswith(".") and name != "__pycache__")
        for name in sorted(names):
            file = Path(folder, name)
            if file.is_file() and not name.startswith("."):
                yield f"{package.__name__}/{file.relative_to(root).as_posix()}", file
