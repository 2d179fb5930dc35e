"""How tokenizers spell their tokens: from a token as it is stored to its exact bytes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from tokenizers import Tokenizer


def speller(layout: dict[str, Any], backend: Tokenizer) -> Callable[[str], bytes]:
    """How a tokenizer spells its tokens.

    Args:
        layout: the tokenizer as tokenizer.json lays it out.
        backend: the same, opened.

    Returns:
        From a token as it is stored to its exact bytes.
    """
    kinds = _kinds(layout.get("decoder") or layout.get("pre_tokenizer"))
    if "ByteLevel" in kinds:
        return of_bytes
    if {"Metaspace", "ByteFallback", "BPEDecoder"} & set(kinds) or _replacements(layout):
        return of_pieces(layout)
    decoder = backend.decoder
    # The piece as it is where its decoding is nothing: tokens without a text would look alike.
    return lambda token: ((decoder.decode([token]) if decoder is not None else "") or token).encode()


def is_byte_level(layout: dict[str, Any]) -> bool:
    """Whether tokens are spelled in GPT-2's characters for bytes."""
    return "ByteLevel" in _kinds(layout.get("decoder") or layout.get("pre_tokenizer"))


def _parts(part: Any) -> Iterator[dict[str, Any]]:
    """A decoder or pre-tokenizer and those it is made of, as tokenizer.json lays them out."""
    if isinstance(part, dict):
        yield part
        for name in ("decoders", "pretokenizers"):
            for inner in part.get(name) or ():
                yield from _parts(inner)


def _kinds(part: Any) -> list[Any]:
    return [inner.get("type") for inner in _parts(part)]


def _replacements(layout: dict[str, Any]) -> list[tuple[str, str]]:
    """What of a token stands for a space or other text, in a decoder that puts SentencePiece's pieces together."""
    found: list[tuple[str, str]] = []
    for part in _parts(layout.get("decoder") or layout.get("pre_tokenizer")):
        pattern = part.get("pattern")
        if part.get("type") == "Metaspace":
            found.append((part.get("replacement") or "▁", " "))
        elif part.get("type") == "Replace" and isinstance(pattern, dict) and "String" in pattern and "content" in part:
            found.append((pattern["String"], part["content"]))
        elif part.get("type") == "BPEDecoder" and part.get("suffix"):
            found.append((part["suffix"], " "))
    return found


def of_pieces(layout: dict[str, Any]) -> Callable[[str], bytes]:
    """Spells pieces that carry their own spaces, and single bytes as `<0x0A>`, without what is cut at a text's ends.

    Args:
        layout: the tokenizer as tokenizer.json lays it out.

    Returns:
        From a piece to its exact bytes.
    """
    replacements = _replacements(layout)
    bytewise = "ByteFallback" in _kinds(layout.get("decoder"))

    def spell(token: str) -> bytes:
        if bytewise and (byte := re.fullmatch("<0x([0-9A-F]{2})>", token)):
            return bytes([int(byte[1], 16)])
        for pattern, content in replacements:
            token = token.replace(pattern, content)
        return encoded(token)

    return spell


@cache
def _byte_of_character() -> dict[str, int]:
    """GPT-2's map from the printable characters of its token files back to bytes.

    Printable Latin-1 bytes stand for themselves; the others, in order, are U+0100, U+0101, ...
    """
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(rest)}


def of_bytes(token: str) -> bytes:
    """Bytes of a token in GPT-2's spelling; one with other characters is its own text, as decoders take it."""
    mapping = _byte_of_character()
    if all(character in mapping for character in token):
        return bytes(mapping[character] for character in token)
    return encoded(token)


def encoded(text: str) -> bytes:
    """A text's bytes, whatever characters a file gave it."""
    return text.encode("utf-8", "surrogateescape" if re.search("[\udc80-\udcff]", text) else "surrogatepass")
