"""Records: the JSON files that a run keeps of itself, read field by field, so that a wrong one is told in one line."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_DEEPEST = 32
"""Levels of what a record holds for others, such as a spec; Python's own limit depends on who calls."""
_LARGEST = 2**63 - 1


class ShapeError(ValueError):
    """A record has another shape than its kind."""


@dataclass(frozen=True)
class Entry:
    """A JSON object of a record.

    Attributes:
        content: its fields; those that nobody asks for may be anything.
        place: where it stands in the record, such as `parts[3]`, for messages; empty for the record itself.
    """

    content: Mapping[str, Any]
    place: str = ""

    def get(self, name: str) -> Any:
        """A field, whatever it is.

        Raises:
            ShapeError: if it is missing.
        """
        if name not in self.content:
            raise ShapeError(f"{self.at(name)} is missing")
        return self.content[name]

    def text(self, name: str) -> str:
        """A field that is text; ShapeError if it is not, as below."""
        found: str = self._of(name, self.get(name), str, "no text")
        return found

    def whole(self, name: str, *, least: int | None = None) -> int:
        """A field that is a whole number.

        Args:
            name: the field.
            least: the smallest that it can be; then it is at most 2^63 - 1, too.
        """
        value: int = self._of(name, self.get(name), int, "no whole number")
        if least is not None and not least <= value <= _LARGEST:
            raise ShapeError(f"{self.at(name)} is {reprlib.repr(value)}, no number from {least} to 2^63 - 1")
        return value

    def maybe_text(self, name: str) -> str | None:
        """A field that is text, null or missing."""
        return None if self.content.get(name) is None else self.text(name)

    def maybe_whole(self, name: str) -> int | None:
        """A field that is a whole number, null or missing."""
        return None if self.content.get(name) is None else self.whole(name)

    def maybe_flag(self, name: str) -> bool | None:
        """A field that is true, false, null or missing."""
        value = self.content.get(name)
        if value is not None and not isinstance(value, bool):
            raise ShapeError(f"{self.at(name)} is {reprlib.repr(value)}, neither true nor false")
        return value

    def maybe_number(self, name: str) -> float | None:
        """A field that is a number, whole or not, null or missing."""
        value = self.content.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ShapeError(f"{self.at(name)} is {reprlib.repr(value)}, no number")
        return value

    def entry(self, name: str) -> Entry:
        """A field that is an object."""
        return Entry(self._of(name, self.get(name), dict, "no object"), self.at(name))

    def maybe_entry(self, name: str) -> Entry | None:
        """A field that is an object, null or missing."""
        return None if self.content.get(name) is None else self.entry(name)

    def entries(self, name: str) -> list[Entry]:
        """A field that is a list of objects."""
        found = self._of(name, self.get(name), list, "no list")
        for number, value in enumerate(found):
            if not isinstance(value, dict):
                raise ShapeError(f"{self.at(name)}[{number}] is {reprlib.repr(value)}, no object")
        return [Entry(value, f"{self.at(name)}[{number}]") for number, value in enumerate(found)]

    def maybe_texts(self, name: str) -> tuple[str, ...]:
        """A field that is a list of texts; none if it is null or missing."""
        if self.content.get(name) is None:
            return ()
        found = self._of(name, self.get(name), list, "no list")
        if not all(isinstance(value, str) for value in found):
            raise ShapeError(f"{self.at(name)} holds what is no text")
        return tuple(found)

    def free(self, name: str) -> dict[str, Any]:
        """A field that is an object whose content is the business of others."""
        return self.entry(name).anything()

    def anything(self) -> dict[str, Any]:
        """All fields, for others to read.

        Raises:
            ShapeError: if they are nested so deeply that those others would fail.
        """
        layer: list[Any] = [self.content]
        for _ in range(_DEEPEST):
            layer = [inner for value in layer for inner in _inside(value)]
            if not layer:
                return dict(self.content)
        raise ShapeError(f"{self.place or 'it'} is nested more than {_DEEPEST} deep")

    def at(self, name: str) -> str:
        """What a field is called in messages."""
        return f"{self.place}.{name}" if self.place else name

    def _of(self, name: str, value: Any, kind: type, otherwise: str) -> Any:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ShapeError(f"{self.at(name)} is {reprlib.repr(value)}, {otherwise}")
        return value


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def parse(content: bytes) -> Entry:
    """Read a record.

    Args:
        content: a JSON object as UTF-8; no name twice in an object, and no number that is not finite.

    Raises:
        ShapeError: if it is none.
    """
    try:
        found = json.loads(content.decode(), object_pairs_hook=_unique, parse_constant=_not_finite, parse_float=_finite)
    except RecursionError as error:
        raise ShapeError("it is nested too deeply") from error
    except ShapeError:
        raise
    except ValueError as error:
        raise ShapeError(f"it is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ShapeError("it is no JSON object")
    return Entry(found)


def write(content: Mapping[str, Any]) -> bytes:
    """A record as it is kept in a file of its own."""
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ShapeError(f"{reprlib.repr(next(name for name in names if names.count(name) > 1))} stands in it twice")
    return found


def _not_finite(text: str) -> float:
    raise ShapeError(f"it holds the number {text}")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ShapeError(f"it holds the number {text[:40]}, which is not finite")
    return value
