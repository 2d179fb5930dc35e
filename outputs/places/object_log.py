"""A log in an object store, where nothing can be appended to: objects of up to 64 lines, the last of them growing."""

from __future__ import annotations

import uuid

from qkatlas.outputs.places.bucket import Bucket
from qkatlas.outputs.places.folder import side_by_side

SEGMENT_LINES = 64
"""Lines after which the next object is begun; a driver writes the growing one anew with every line."""


class ObjectLog:
    """Lines in segments `<log>/<driver>-<random>-<segment>`; see `Log`.

    Drivers are numbered in the order of their first line, and none writes a segment of another: two that overlap lose
    nothing. A segment that is gone costs its own lines only.

    Args:
        folder: what it is kept in.
        path: of the log, such as `_state/receipts.jsonl`.
    """

    def __init__(self, folder: Bucket, path: str) -> None:
        stem, _, self._suffix = path.rpartition(".")
        self._folder, self._place = folder, stem
        self._driver: str | None = None
        self._segment = 0
        self._lines: list[bytes] = []

    def __str__(self) -> str:
        return str(self._folder / self._place)

    def exists(self) -> bool:
        """Whether there is any line."""
        return bool(self._segments())

    def append(self, line: bytes) -> None:
        """Write the growing segment with one line more."""
        if self._driver is None:
            numbers = [int(found.rpartition("/")[2].partition("-")[0]) for found in self._segments()]
            self._driver = f"{max(numbers, default=0) + 1:06d}-{uuid.uuid4().hex[:12]}"
        grown = [*self._lines, line]
        path = f"{self._place}/{self._driver}-{self._segment:06d}.{self._suffix}"
        self._folder.write(path, b"".join(one + b"\n" for one in grown))
        self._lines = grown
        if len(grown) >= SEGMENT_LINES:
            self._segment, self._lines = self._segment + 1, []

    def lines(self) -> list[bytes]:
        """All lines, oldest first; a segment that vanishes meanwhile is left out."""
        contents = side_by_side(self._folder, self._read, self._segments())
        return [line for content in contents for line in content.split(b"\n")]

    def _read(self, path: str) -> bytes:
        try:
            return self._folder.read(path)
        except FileNotFoundError:
            return b""

    def _segments(self) -> list[str]:
        found = self._folder.listed(self._place)
        return sorted(path for path in found if path.rpartition("/")[2].partition("-")[0].isdecimal())
