"""A checkpoint's config.json, read as strictly as transformers reads it."""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_SHOWN = 60
"""Characters of a bad value that are shown."""


@dataclass(frozen=True)
class Config:
    """The values of a configuration.

    Attributes:
        values: as they were parsed.
        source: the checkpoint's name, for messages.
        aliases: a setting's name -> another name for it, which counts where both are given, as in transformers.
    """

    values: Mapping[str, Any]
    source: str
    aliases: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Config:
        """Read config.json of a checkpoint.

        Args:
            path: the directory.

        Raises:
            ValueError: if there is none, or it is no JSON object.
        """
        return cls(read_json(path / "config.json", path), str(path))

    @property
    def model_type(self) -> str | None:
        """The setting `model_type`, if it is one."""
        found = self.values.get("model_type")
        return found if isinstance(found, str) else None

    @property
    def class_name(self) -> str | None:
        """The first of the classes that the model was saved from, if it is named."""
        named = self.values.get("architectures")
        first = named[0] if isinstance(named, list) and named else None
        return first if isinstance(first, str) else None

    def integer(self, name: str, default: int | None, *, most: int = 10**15) -> int:
        """A whole number.

        Args:
            name: of the setting.
            default: where it is not given; None = it has to be.
            most: the largest that can be.

        Raises:
            ValueError: if it is not a whole number; true and 2.0 are none.
        """
        found = self.optional_integer(name, default)
        if found is None or abs(found) > most:
            raise self._wrong(self._value(name, default)[0], found, f"a whole number up to {most}")
        return found

    def optional_integer(self, name: str, default: int | None = None) -> int | None:
        """A whole number or null."""
        used, value = self._value(name, default)
        if value is None or (isinstance(value, int) and not isinstance(value, bool)):
            return value
        raise self._wrong(used, value, "a whole number")

    def number(self, name: str, default: float | None, *, whole: bool = False) -> float:
        """A decimal number that is finite and not negative.

        Args:
            name: of the setting.
            default: where it is not given; None = it has to be.
            whole: whether a whole number will do too.

        Raises:
            ValueError: if it is not; text and true are no decimal numbers.
        """
        used, value = self._value(name, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{used} {value} of {self.source} is impossible; give a number from 0 such as {default}")
        if not (isinstance(value, float) or (whole and is_number)):
            raise self._wrong(used, value, "a number" if default is None else f"a decimal number such as {default}")
        return float(value)

    def optional_number(self, name: str, default: float | None) -> float | None:
        """As `number`, or null."""
        _, value = self._value(name, default)
        return None if value is None else self.number(name, default)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        used, value = self._value(name, default)
        if isinstance(value, bool):
            return value
        raise self._wrong(used, value, "true or false")

    def text(self, name: str, default: str) -> str:
        """A text."""
        used, value = self._value(name, default)
        if isinstance(value, str):
            return value
        raise self._wrong(used, value, "a text")

    def section(self, name: str) -> dict[str, Any]:
        """A JSON object; empty where it is null or not given."""
        used, value = self._value(name, None)
        if value is None or isinstance(value, dict):
            return dict(value or {})
        raise self._wrong(used, value, "an object")

    def _value(self, name: str, default: Any) -> tuple[str, Any]:
        """A setting's name as it is written, and its value."""
        alias = self.aliases.get(name, name)
        used = alias if alias in self.values else name
        return used, self.values.get(used, default)

    def _wrong(self, name: str, value: Any, wanted: str) -> ValueError:
        shown = repr(value)
        shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
        return ValueError(f"config.json of {self.source} cannot be used: {name} is {shown}, not {wanted}")


def read_json(file: Path, path: Path) -> dict[str, Any]:
    """Read a JSON object of a checkpoint.

    Args:
        file: the file.
        path: its checkpoint, for messages.

    Raises:
        ValueError: if there is none, or it is no JSON object.
    """
    try:
        kind = file.stat().st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):  # reading a pipe or a device might never end
            raise ValueError("it is a pipe, a socket or a device")
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path} has no {file.name}; give a Hugging Face model directory") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file.name} of {path} cannot be read: {error}; copy it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file.name} of {path} is not a JSON object; copy it again")
    return content
