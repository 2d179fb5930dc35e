"""Arrays and texts as named blocks of a page: little-endian bytes, deflated, in base64.

Base64 holds no character that HTML acts on, so whatever the data say, they cannot leave the element they stand in.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

KINDS = {"uint8": "u1", "uint16": "u2", "uint32": "u4", "int32": "i4", "float32": "f4", "float64": "f8"}
"""NumPy types that a page can read as typed arrays, and what they are called there."""

_LEVEL = 9


class Pack:
    """The blocks of one page. The same content is kept once, however often it is added."""

    def __init__(self) -> None:
        self._names: dict[bytes, str] = {}
        self._blocks: dict[str, str] = {}

    @property
    def blocks(self) -> dict[str, str]:
        """Base64 text of every block, by name, in the order they were added."""
        return dict(self._blocks)

    def array(self, values: np.ndarray) -> dict[str, Any]:
        """Add an array of any shape.

        Args:
            values: of one of the types in `KINDS`.

        Returns:
            A reference for the page's index: block, kind and shape.

        Raises:
            ValueError: if a page has no typed array for it.
        """
        if values.dtype.name not in KINDS:
            raise ValueError(f"an array of {values.dtype} has no place in a page; choose from {', '.join(KINDS)}")
        little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
        return {"block": self._add(little.tobytes()), "kind": KINDS[values.dtype.name], "shape": list(values.shape)}

    def ids(self, values: np.ndarray) -> dict[str, Any]:
        """Add numbers from 0 upwards in the smallest type that holds them.

        Args:
            values: integers of any shape, none negative.

        Returns:
            A reference for the page's index.
        """
        assert not values.size or values.min() >= 0, "ids start at 0"
        largest = int(values.max()) if values.size else 0
        kind = np.uint8 if largest < 1 << 8 else np.uint16 if largest < 1 << 16 else np.uint32
        return self.array(values.astype(kind))

    def texts(self, values: Sequence[str]) -> dict[str, Any]:
        """Add a list of texts.

        Args:
            values: any texts; what is in them is kept, whatever it is.

        Returns:
            A reference for the page's index.
        """
        return {"block": self._add(json.dumps(list(values)).encode()), "kind": "json", "shape": [len(values)]}

    def close(self, index: Any) -> dict[str, str]:
        """Add what the page reads first.

        Args:
            index: a JSON value that holds the references.

        Returns:
            All blocks; the index is block `index`.
        """
        content = json.dumps(index, allow_nan=False, separators=(",", ":")).encode()
        return {"index": _encode(content), **self._blocks}

    def _add(self, content: bytes) -> str:
        digest = hashlib.sha256(content).digest()
        if digest not in self._names:
            name = f"block-{len(self._names)}"
            self._names[digest] = name
            self._blocks[name] = _encode(content)
        return self._names[digest]


def unpack(block: str) -> bytes:
    """The content of a block, as the page reads it."""
    return zlib.decompress(base64.b64decode(block, validate=True))


def plain(value: Any) -> Any:
    """A value as JSON knows it: numbers that are none become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _encode(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content, _LEVEL)).decode()
