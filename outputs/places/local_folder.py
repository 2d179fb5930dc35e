"""A folder on a disk of this machine, or on one that all machines mount."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.fs

from qkatlas.outputs.places import lock


class LocalFolder:
    """A folder by its path; see `Folder`. It stands wherever a path does.

    Raises:
        ValueError: if the path is not UTF-8.
    """

    threads = 1
    sizes_suffice = False

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            os.fspath(path).encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{os.fspath(path)!a} is not UTF-8, which Parquet readers need; choose another") from error
        self._path = Path(path)

    def __fspath__(self) -> str:
        return str(self._path)

    def __str__(self) -> str:
        return str(self._path)

    def __repr__(self) -> str:
        return f"LocalFolder({str(self._path)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LocalFolder) and self._path == other._path

    def __hash__(self) -> int:
        return hash(self._path)

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalFolder, (os.path.realpath(self._path),)  # a worker stands in another directory

    def __truediv__(self, path: str) -> LocalFolder:
        return LocalFolder(self._path / path)

    @property
    def name(self) -> str:
        """Its last name."""
        return self._path.name

    @property
    def parent(self) -> LocalFolder:
        """The folder it lies in."""
        return LocalFolder(self._path.parent)

    @property
    def filesystem(self) -> pyarrow.fs.FileSystem:
        """What Arrow opens it with."""
        return pyarrow.fs.LocalFileSystem()

    @property
    def path(self) -> str:
        """What it is called there."""
        return str(self._path)

    def require_reachable(self) -> None:
        """A disk is always at hand."""

    def folders(self) -> list[LocalFolder]:
        """The folders in it, by name; see `Folder`."""
        try:
            with os.scandir(self._path) as entries:
                return [self / name for name in sorted(entry.name for entry in entries if _leads_to(entry.is_dir))]
        except FileNotFoundError:
            return []

    def files(self, expected: Iterable[str] = ()) -> dict[str, int]:
        """Sizes of all files below it; see `Folder`."""
        wanted = set(expected)
        on_the_way = {str(folder) for path in wanted for folder in PurePosixPath(path).parents}
        return {
            path: entry.stat(follow_symlinks=_leads_to(entry.is_file)).st_size
            for path, entry in _walk(self._path, hidden=False, follow=on_the_way)
            if _leads_to(entry.is_file) or (not entry.is_dir(follow_symlinks=False) and path not in on_the_way | wanted)
        }

    def size(self, path: str) -> int | None:
        """Bytes of a file; None if there is none."""
        file = self._path / path
        try:
            return file.stat().st_size if file.is_file() else None
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return None
            raise

    def modified(self, path: str) -> datetime | None:
        """When a file was written last; None if there is none."""
        try:
            return datetime.fromtimestamp((self._path / path).stat().st_mtime, UTC)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read(self, path: str) -> bytes:
        """A file's content."""
        file = self._path / path
        require_file(file)
        return file.read_bytes()

    def sha256(self, path: str) -> str:
        """Hash of a file's content."""
        file = self._path / path
        require_file(file)
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def write(self, path: str, content: bytes) -> None:
        """Put a file in place; see `write_whole`."""
        write_whole(self._path / path, content)

    def move(self, path: str, target: str) -> None:
        """Give a file, or a folder, another path in this folder."""
        end = self._path / target
        if os.path.lexists(self._path / path):
            end.parent.mkdir(parents=True, exist_ok=True)
        try:
            (self._path / path).rename(end)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            shutil.move(self._path / path, end)  # out of a folder that is a link to another disk

    def clear_leftovers(self, own: Collection[str] = ()) -> list[str]:
        """Remove temporary files; return what is no file and bears a file's name, and links to nothing."""
        in_the_way = []
        for path, entry in _walk(self._path, hidden=True):
            if entry.name.startswith(".") and entry.name.endswith(".tmp"):
                Path(entry.path).unlink(missing_ok=True)
            elif path in own:
                if not _leads_to(entry.is_file):
                    in_the_way.append(path)
            elif entry.is_dir(follow_symlinks=False):
                if path.endswith(".parquet") and not path.startswith("_"):
                    in_the_way.append(path)
            elif entry.is_symlink() and not path.startswith("_") and not os.path.exists(entry.path):
                in_the_way.append(path)
        return in_the_way

    def discard(self, path: str) -> None:
        """Remove all below a path, as far as that is possible."""
        shutil.rmtree(self._path / path, ignore_errors=True)

    def log(self, path: str) -> LocalLog:
        """The file of that path, as a log."""
        return LocalLog(self._path / path)

    @contextmanager
    def exclusive(self, path: str) -> Iterator[Callable[[bool], None]]:
        """Hold a kernel's lock, which ends with the process; see `Folder`."""
        place = self._path / path
        with without_traces(self._path):
            place.mkdir(parents=True, exist_ok=True)
            with lock.exclusive(place / "lock"):
                yield lambda ask: None

    def is_driven(self, path: str) -> bool:
        """Whether a driver holds the lock now."""
        return lock.is_held(self._path / path / "lock")

    def pandas_arguments(self, path: str) -> str:
        """Source of the path, with double quotes as JSON and Python have them."""
        return json.dumps(str(self._path / path))


class LocalLog:
    """A file of lines; see `Log`. One that was torn stays, and the next begins anew."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __str__(self) -> str:
        return str(self._file)

    def exists(self) -> bool:
        """Whether anything was ever written."""
        return self._file.exists()

    def append(self, line: bytes) -> None:
        """Add a line and make it survive a power cut."""
        with self._file.open("a+b") as stream:
            end = stream.seek(0, os.SEEK_END)
            if end:
                stream.seek(end - 1)
                if stream.read(1) != b"\n":
                    line = b"\n" + line
            stream.write(line + b"\n")
            stream.flush()
            os.fsync(stream.fileno())

    def lines(self) -> list[bytes]:
        """All lines, oldest first."""
        try:
            require_file(self._file)
            return self._file.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []


def _walk(top: Path, *, hidden: bool, follow: Collection[str] = ()) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Everything below a folder with its path; a folder comes before its content.

    Args:
        top: the folder; nothing if it is not there.
        hidden: whether names that begin with a dot or an underscore count.
        follow: paths of folders that may be links. No other link is followed: it may lead anywhere, even back.
    """
    waiting = [("", str(top))]
    while waiting:
        prefix, folder = waiting.pop()
        try:
            with os.scandir(folder) as found:
                entries = list(found)
        except FileNotFoundError:
            continue
        for entry in entries:
            if not hidden and entry.name.startswith((".", "_")):
                continue
            yield prefix + entry.name, entry
            is_link = prefix + entry.name not in follow and entry.is_symlink()
            if not is_link and _leads_to(entry.is_dir):
                waiting.append((f"{prefix}{entry.name}/", entry.path))


def require_file(file: Path) -> None:
    """Check that reading a file ends: that of a pipe waits for a writer, and that of a device goes on for ever.

    Raises:
        OSError: if it is neither a file nor a folder, or not there.
    """
    kind = file.stat().st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        raise OSError(errno.EINVAL, "it is a pipe, a socket or a device", str(file))


def _leads_to(kind: Callable[[], bool]) -> bool:
    """Whether an entry is of a kind, `is_dir` or `is_file`; a link that leads nowhere, or to itself, is of none."""
    try:
        return kind()
    except OSError:
        return False


@contextmanager
def without_traces(folder: Path) -> Iterator[None]:
    """Remove folders that a request made, once it is done, if it came to nothing: they are empty then.

    Args:
        folder: the innermost.
    """
    absent = [place for place in (folder, *folder.parents) if not os.path.lexists(place)]
    try:
        yield
    finally:
        for place in absent:
            with suppress(OSError):
                place.rmdir()


def write_whole(file: Path, content: bytes) -> None:
    """Put a file in place at once: a temporary name in the same folder, fsync, rename.

    Args:
        file: final name; its folder is made.
        content: what it shall hold.

    Raises:
        OSError: if that failed; the temporary file is removed and an earlier file of that name stays.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    descriptor = os.open(file.parent, os.O_RDONLY)  # the name shall survive a power cut, too
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
