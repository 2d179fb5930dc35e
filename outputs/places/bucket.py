"""What can be asked of a bucket, or of a prefix of one; through pyarrow.fs.

An object appears whole or not at all, so that writing needs no temporary name; it cannot be appended to or renamed.
What pyarrow removes leaves an empty object named after its folder with a slash at the end, which readers skip.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Self
from urllib.parse import parse_qsl

import pyarrow
import pyarrow.fs
from pyarrow.fs import FileSelector, FileType

_ATTEMPTS = 4
"""Times that a request is sent while the store is at fault: it answers 5xx or 429, breaks off, or says nothing. The
pauses between them grow and come to about 3 seconds."""

_CONNECT_SECONDS, _SILENT_SECONDS = 2.5, 20.0
"""How long a store may take to accept a connection, and to send the next byte."""

_IMPATIENT = 2, 4.0
"""Attempts and seconds of silence where a person waits: when a store is first spoken to, and at the end."""

_CHUNK = 1 << 25
_OPTIONS = ("endpoint_override", "scheme", "region", "anonymous")


class Bucket:
    """A prefix of a bucket, and requests about the objects below it. It exists as long as an object begins with it.

    Credentials come from the environment, a profile or the machine's role wherever it is used: they are no part of it.

    Args:
        uri: `s3://bucket/prefix` or `gs://bucket/prefix`, with options such as `?endpoint_override=host:port`.

    Raises:
        ValueError: if the URI names no bucket, an unknown option, or holds credentials.
    """

    SCHEMES = ("s3", "gs")
    threads = 16
    sizes_suffice = True

    def __init__(self, uri: str) -> None:
        scheme, _, rest = uri.partition("://")
        place, _, query = rest.partition("?")
        if "@" in place.partition("/")[0]:
            raise ValueError(
                f"the {scheme}:// URI holds credentials, which would end up in logs; leave out what is before the @ "
                "and set them in the environment or a profile"
            )
        names = [name for name in place.split("/") if name]
        if not names or ".." in names:
            raise ValueError(f"{uri} names no bucket; write {scheme}://bucket/prefix")
        try:
            options = dict(parse_qsl(query, strict_parsing=True, keep_blank_values=True)) if query else {}
        except ValueError as error:
            raise ValueError(f"{scheme}://{place} has options that are not name=value joined by &") from error
        unknown = sorted(set(options) - set(_OPTIONS))
        if unknown:
            raise ValueError(f"{scheme}://{place} has the option {unknown[0]}; choose among {', '.join(_OPTIONS)}")
        if "@" in options.get("endpoint_override", ""):
            raise ValueError(
                f"endpoint_override of {scheme}://{place} holds credentials, which would end up in logs; leave out "
                "what is before the @ and set them in the environment or a profile"
            )
        self._scheme, self.path, self._query, self._options = scheme, "/".join(names), query, options
        self._patience = _ATTEMPTS, _SILENT_SECONDS

    def __str__(self) -> str:
        return f"{self._scheme}://{self.path}{'?' if self._query else ''}{self._query}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bucket) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self),)

    def __truediv__(self, path: str) -> Self:
        return self._at(f"{self.path}/{path}")

    def _at(self, path: str) -> Self:
        return type(self)(f"{self._scheme}://{path}{'?' if self._query else ''}{self._query}")

    @property
    def name(self) -> str:
        """Its last name."""
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> Self:
        """The prefix it lies in; a bucket lies in itself."""
        return self._at(self.path.rpartition("/")[0] or self.path)

    @property
    def filesystem(self) -> pyarrow.fs.FileSystem:
        """What Arrow opens it with; one for each process, since its threads do not survive a fork."""
        bucket = self.path.partition("/")[0]
        return _connect(os.getpid(), self._scheme, bucket, tuple(sorted(self._options.items())), *self._patience)

    def impatient(self, patience: tuple[int, float] | None = None) -> Self:
        """The same folder, whose requests fail sooner: after so many attempts and seconds of silence."""
        folder = type(self)(str(self))
        folder._patience = patience or _IMPATIENT
        return folder

    def require_reachable(self) -> None:
        """Ask for the first objects, with little patience; see `Folder`."""
        # S3 tells an empty prefix from a bucket that is not there; Google's file system does not.
        selector = FileSelector(self.path, allow_not_found=self._scheme != "s3")
        with suppress(FileNotFoundError):
            self.impatient().filesystem.get_file_info(selector)

    def folders(self) -> list[Self]:
        """The prefixes in it, by name; see `Folder`."""
        found = self.filesystem.get_file_info(FileSelector(self.path, allow_not_found=True))
        return [self / name for name in sorted(info.base_name for info in found if info.type == FileType.Directory)]

    def files(self, expected: Iterable[str] = ()) -> dict[str, int]:
        """Sizes of all objects below it; see `Folder`."""
        return {
            path: info.size
            for path, info in self.listed("").items()
            if not any(name.startswith((".", "_")) for name in path.split("/"))
        }

    def listed(self, below: str) -> dict[str, pyarrow.fs.FileInfo]:
        """What the store says of all objects below a path, by their paths in this folder, from one listing."""
        selector = FileSelector(f"{self.path}/{below}".rstrip("/"), recursive=True, allow_not_found=True)
        found = self.filesystem.get_file_info(selector)
        start = len(self.path) + 1
        return {info.path[start:]: info for info in found if info.type == FileType.File}

    def size(self, path: str) -> int | None:
        """Bytes of an object; None if there is none."""
        info = self.filesystem.get_file_info(f"{self.path}/{path}")
        size: int | None = info.size if info.type == FileType.File else None
        return size

    def modified(self, path: str) -> datetime | None:
        """When an object was written; None if there is none."""
        moment: datetime | None = self.filesystem.get_file_info(f"{self.path}/{path}").mtime
        return moment

    def read(self, path: str) -> bytes:
        """An object's content."""
        with self.filesystem.open_input_file(f"{self.path}/{path}") as stream:
            content: bytes = stream.read()
            return content

    def sha256(self, path: str) -> str:
        """Hash of an object's content."""
        digest = hashlib.sha256()
        with self.filesystem.open_input_file(f"{self.path}/{path}") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    def write(self, path: str, content: bytes) -> None:
        """Put an object in place; see `Folder`."""
        # Not as a context, which would complete an upload that failed half way.
        stream = self.filesystem.open_output_stream(f"{self.path}/{path}")
        stream.write(content)
        stream.close()

    def move(self, path: str, target: str) -> None:
        """Copy an object to another path and remove it."""
        if self.size(path) is None:
            raise FileNotFoundError(f"{self / path} is not there")
        self.filesystem.move(f"{self.path}/{path}", f"{self.path}/{target}")

    def remove(self, path: str) -> None:
        """Remove an object, if it is there."""
        with suppress(FileNotFoundError):
            self.filesystem.delete_file(f"{self.path}/{path}")

    def pandas_arguments(self, path: str) -> str:
        """Source of the path and of a file system with the same options."""
        options = _arguments(self._options)
        if self._scheme == "s3":
            kind, options["region"] = "S3FileSystem", self.filesystem.region
        else:
            kind = "GcsFileSystem"
            options.pop("region", None)
        given = ", ".join(
            f"{name}={value if isinstance(value, bool) else json.dumps(value)}" for name, value in options.items()
        )
        return f"{json.dumps(f'{self.path}/{path}')}, filesystem=pyarrow.fs.{kind}({given})"


@lru_cache(maxsize=16)
def _connect(
    process: int, scheme: str, bucket: str, given: tuple[tuple[str, str], ...], attempts: int, silent: float
) -> pyarrow.fs.FileSystem:
    """The file system of a store.

    Raises:
        OSError: if the region of a bucket is not told and cannot be found out.
        ValueError: if an option has an impossible value.
    """
    options = _arguments(dict(given))
    try:
        if scheme == "gs":
            options.pop("region", None)
            return pyarrow.fs.GcsFileSystem(**options, retry_time_limit=timedelta(seconds=attempts * 4))
        elsewhere = options.get("endpoint_override") or any(
            os.environ.get(name) for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
        )
        own_region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if "region" not in options and elsewhere:
            options["region"] = own_region or "us-east-1"
        elif "region" not in options:
            options["region"] = own_region or pyarrow.fs.resolve_s3_region(bucket)
        return pyarrow.fs.S3FileSystem(
            **options,
            connect_timeout=_CONNECT_SECONDS,
            request_timeout=silent,
            retry_strategy=pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=attempts),
            allow_delayed_open=True,  # one request for an object of a few megabytes instead of three
        )
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{scheme}://{bucket} cannot be opened with these options: {error}") from error


def _arguments(given: Mapping[str, str]) -> dict[str, Any]:
    """The options of a URI as pyarrow takes them."""
    options: dict[str, Any] = dict(given)
    protocol, _, host = options.get("endpoint_override", "").rpartition("://")
    if host:
        options["endpoint_override"] = host.rstrip("/")
        options.setdefault("scheme", protocol or "https")
    if "anonymous" in options:
        if options["anonymous"].lower() not in ("true", "false"):
            raise ValueError(f"anonymous={options['anonymous']} is neither true nor false")
        options["anonymous"] = options["anonymous"].lower() == "true"
    return options
