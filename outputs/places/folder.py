"""Folders that hold runs or are one: on a disk, or in an object store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Protocol, TypeVar

import pyarrow.fs

Item = TypeVar("Item")
Value = TypeVar("Value")


class Log(Protocol):
    """Lines that one driver after the other adds to; its text is where it lies."""

    def exists(self) -> bool:
        """Whether there is any line."""
        ...

    def append(self, line: bytes) -> None:
        """Add a line; it survives a power cut once this returns.

        Raises:
            OSError: if it cannot be written; the lines before it stay.
        """
        ...

    def lines(self) -> list[bytes]:
        """All lines, oldest first; one that was torn while it was written may be among them."""
        ...


class Folder(Protocol):
    """A folder, and what a run does with it; pickled as its place alone.

    Paths are relative to it, with forward slashes. What cannot be read or written is an OSError; what is not there a
    FileNotFoundError.
    """

    threads: int
    """Files that are best read at the same time."""
    sizes_suffice: bool
    """Whether a file of the right size is the one that was written, so that only `verify` and a resume read it again:
    objects appear whole or not at all, and no process keeps one open to change it."""

    @property
    def name(self) -> str:
        """Its last name."""
        ...

    @property
    def parent(self) -> Folder:
        """The folder it lies in."""
        ...

    @property
    def filesystem(self) -> pyarrow.fs.FileSystem:
        """What Arrow opens it with."""
        ...

    @property
    def path(self) -> str:
        """What it is called there."""
        ...

    def __truediv__(self, path: str) -> Folder:
        """A folder or file in it."""
        ...

    def require_reachable(self) -> None:
        """Find out within seconds whether the store answers.

        Raises:
            OSError: if it does not, or refuses.
        """
        ...

    def folders(self) -> Sequence[Folder]:
        """The folders in it, by name; none if it is not there.

        Raises:
            NotADirectoryError: if it is a file.
        """
        ...

    def files(self, expected: Iterable[str] = ()) -> dict[str, int]:
        """Sizes in bytes of all files below it by their paths, from one listing.

        Files and folders whose names begin with a dot or an underscore are left out, as table readers do. Where a
        folder is a link to another place, such as a table that was moved to a larger disk, the listing goes on there if
        a file is expected below it; any other link to a folder, or to nothing, counts as a file itself.

        Args:
            expected: paths of files that should be there.
        """
        ...

    def size(self, path: str) -> int | None:
        """Bytes of a file; None if there is none."""
        ...

    def modified(self, path: str) -> datetime | None:
        """When a file was written last; None if there is none."""
        ...

    def read(self, path: str) -> bytes:
        """A file's content."""
        ...

    def sha256(self, path: str) -> str:
        """Hash of a file's content, read piece by piece."""
        ...

    def write(self, path: str, content: bytes) -> None:
        """Put a file in place, whole or not at all; an earlier one is replaced."""
        ...

    def move(self, path: str, target: str) -> None:
        """Give a file another path in this folder."""
        ...

    def clear_leftovers(self, own: Collection[str] = ()) -> list[str]:
        """Remove what killed writers left.

        Args:
            own: paths of files that are no tables.

        Returns:
            What stands in the way where one of them or a table's file belongs.
        """
        ...

    def discard(self, path: str) -> None:
        """Remove all below a path, as far as that is possible."""
        ...

    def log(self, path: str) -> Log:
        """The log of that path."""
        ...

    def exclusive(self, path: str) -> AbstractContextManager[Callable[[bool], None]]:
        """Be the one driver of this folder.

        Args:
            path: folder that remembers who it is.

        Returns:
            Called with whether to ask the store, it raises OSError if another driver may have taken over.

        Raises:
            RunIsBusyError: if another driver is at it.
            OSError: if the folder cannot be written.
        """
        ...

    def is_driven(self, path: str) -> bool:
        """Whether a driver is at it, by what `exclusive` remembers at that path."""
        ...

    def pandas_arguments(self, path: str) -> str:
        """Arguments of `pandas.read_parquet` for a table in it, as Python source; they may name `pyarrow.fs`."""
        ...


class ReadTogether(Protocol):
    """What side_by_side asks of a folder, or of a part of one."""

    threads: int
    """Files that are best read at the same time."""


def side_by_side(folder: ReadTogether, function: Callable[[Item], Value], items: Iterable[Item]) -> list[Value]:
    """Call a function that reads files for each item, as many at a time as is best for the folder.

    Returns:
        What it returned, in the order of the items.
    """
    if folder.threads == 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(folder.threads) as pool:
        return list(pool.map(function, items))
