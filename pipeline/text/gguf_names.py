"""Token names of a GGUF file, from its metadata alone: the weights behind it are not touched.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. It is read here because the `gguf` package builds an
array for each of the hundred thousand strings of a vocabulary, and takes seconds for what this does in a fifth of one.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Container
from pathlib import Path
from typing import Any

from qkatlas.pipeline.text.spelling import encoded, of_bytes, of_pieces
from qkatlas.pipeline.text.tokenizer import TokenNames, UnreadableTokenizerError

_FIXED = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
"""Metadata types of fixed size; the others are strings and arrays."""

_STRING, _ARRAY = 8, 9
_CONTROL, _USER_DEFINED, _UNKNOWN = 3, 4, 2
_NAMED = ("bos_token_id", "eos_token_id", "unknown_token_id", "padding_token_id")
_PIECES = {"decoder": {"type": "Sequence", "decoders": [{"type": "Metaspace"}, {"type": "ByteFallback"}]}}
_KINDS = ("gpt2", "llama", "t5", "gemma4", "bert")


def read_gguf_names(path: Path) -> TokenNames | None:
    """Name every token of a GGUF file.

    Args:
        path: the file.

    Returns:
        The names; None where the file holds no vocabulary.

    Raises:
        UnreadableTokenizerError: if its metadata is damaged, or the vocabulary of a kind that is not known.
    """
    wanted = {f"tokenizer.ggml.{name}" for name in ("model", "tokens", "token_type", *_NAMED)}
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            metadata = _Metadata(data).read(wanted)
    except (OSError, ValueError, struct.error, RecursionError) as error:
        raise UnreadableTokenizerError(
            f"tokenizer of {path} cannot be read ({error}); use a whole GGUF file of version 2 or 3"
        ) from error
    tokens, kind = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.ggml.model")
    if not isinstance(tokens, list) or not tokens:
        return None
    if kind not in _KINDS:
        raise UnreadableTokenizerError(
            f"tokenizer of {path} cannot be read (its kind {kind!r} is not among {', '.join(_KINDS)}); "
            "use the model's directory with tokenizer.json"
        )
    types = metadata.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    spell = of_bytes if kind == "gpt2" else of_pieces(_PIECES)
    whole = (_CONTROL, _USER_DEFINED, _UNKNOWN)
    spellings = {
        token_id: encoded(token) if token_type in whole else spell(token)
        for token_id, (token, token_type) in enumerate(zip(tokens, types, strict=False))
    }
    named = {metadata.get(f"tokenizer.ggml.{name}") for name in _NAMED}
    control = {token_id for token_id, token_type in enumerate(types) if token_type == _CONTROL}
    special = {token_id for token_id in control | named if token_id in spellings}
    return TokenNames(spellings, frozenset(special), frozenset())


class _Metadata:
    """The key-value part at the beginning of a GGUF file.

    Args:
        data: the file.
    """

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._place = 0

    def read(self, wanted: Container[str]) -> dict[str, Any]:
        """The values of some keys; strings keep bytes that are no UTF-8 as lone surrogates.

        Raises:
            ValueError: if the file is no GGUF of a version that is known.
            struct.error: if it ends too early.
        """
        if self._data[:4] != b"GGUF":
            raise ValueError("it does not begin as a GGUF file does")
        self._place = 4
        version = self._number("<I")
        if version not in (2, 3):
            raise ValueError(f"its version is {version}")
        self._number("<Q")  # tensors
        found: dict[str, Any] = {}
        for _ in range(self._number("<Q")):
            key = self._string()
            value = self._value(self._number("<I"))
            if key in wanted:
                found[key] = value
        return found

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            kind, count = self._number("<I"), self._number("<Q")
            if kind in _FIXED:
                size = struct.calcsize(_FIXED[kind]) * count
                values = struct.unpack(f"<{count}{_FIXED[kind][1]}", self._taken(size))
                return list(values)
            return [self._value(kind) for _ in range(count)]
        if kind not in _FIXED:
            raise ValueError(f"its metadata holds a value of type {kind}")
        return self._number(_FIXED[kind])

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._taken(struct.calcsize(form)))[0]

    def _string(self) -> str:
        return self._taken(self._number("<Q")).decode("utf-8", "surrogateescape")

    def _taken(self, size: int) -> bytes:
        if size > len(self._data) - self._place:
            raise ValueError("its metadata ends too early")
        self._place += size
        return self._data[self._place - size : self._place]
