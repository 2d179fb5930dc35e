"""Digests of what a step's shards share: shards may only stand together if they were computed from the same bits."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Identified(Protocol):
    """A value that says itself what it was made from, as one does that was hashed before or is read from a file."""

    def identity(self) -> str:
        """Equal only for values that give the same results."""
        ...


def digest_of(shared: Any) -> str:
    """SHA-256 of a value: its own identity where it has one, else its arrays, numbers and texts, bit for bit.

    Order counts, that of a mapping's keys too: who goes through them may come to other results in another order. What
    a sequence, a mapping or a dataclass is called does not.

    Args:
        shared: arrays, numbers, texts, None; sequences, mappings and dataclasses of these.

    Raises:
        TypeError: if it holds anything else, which could not be told apart from another.
    """
    if isinstance(shared, Identified):
        return shared.identity()
    digest = hashlib.sha256()
    for piece in _pieces(shared):
        digest.update(len(piece).to_bytes(8, "little"))
        digest.update(piece)
    return digest.hexdigest()


def _pieces(value: Any) -> Any:
    """The bytes of a value, piece by piece; each is hashed with its length, so that no two values run together."""
    if isinstance(value, Identified):
        yield f"identity {value.identity()}".encode()
    elif isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray) and not value.dtype.hasobject:
        yield f"array {value.dtype.descr} {value.shape}".encode()
        yield np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
    elif value is None or isinstance(value, bool | int | float | str | np.generic):
        yield f"{type(value).__name__} {value!r}".encode()
    elif isinstance(value, bytes):
        yield b"bytes"
        yield value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield f"fields {len(dataclasses.fields(value))}".encode()
        for field in dataclasses.fields(value):
            yield field.name.encode()
            yield from _pieces(getattr(value, field.name))
    elif isinstance(value, Mapping):
        yield f"mapping {len(value)}".encode()
        for key, held in value.items():
            yield from _pieces(key)
            yield from _pieces(held)
    elif isinstance(value, Sequence):
        yield f"sequence {len(value)}".encode()
        for held in value:
            yield from _pieces(held)
    else:
        raise TypeError(f"a {type(value).__name__} has no digest; give it a method identity")
