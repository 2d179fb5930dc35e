"""A checkpoint's vocabulary: for each token id its exact bytes, a printable text, and whether it is special."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a model, one entry for each token id from 0 to V - 1.

    Attributes:
        spellings: exact bytes of each token; None where no tokenizer names the id.
        special: whether the token is a control token such as `<|endoftext|>`.
        has_tokenizer: False if the checkpoint came without tokenizer files.
    """

    spellings: tuple[bytes | None, ...]
    special: tuple[bool, ...]
    has_tokenizer: bool

    @classmethod
    def open(cls, path: Path, vocab_size: int) -> Vocabulary:
        """Read the byte-level BPE tokenizer of a checkpoint directory.

        Args:
            path: the directory, with tokenizer.json or vocab.json; neither gives a vocabulary without texts.
            vocab_size: rows of the embedding matrix, V.

        Returns:
            The vocabulary; ids that the tokenizer does not name (padding rows) have no spelling.

        Raises:
            ValueError: if the tokenizer is unreadable, not byte-level, or names an id past the embedding's last row.
        """
        ids, added = _read_ids(path)
        # Tokens that were added and never given a row of the embedding cannot occur; others past its end are an error.
        ids = {token: token_id for token, token_id in ids.items() if token_id < vocab_size or token_id not in added}
        beyond = max(ids.values(), default=-1)
        if beyond >= vocab_size:
            raise ValueError(
                f"tokenizer of {path} names token id {beyond}, but the model has {vocab_size} tokens; "
                "use the tokenizer the model was trained with"
            )
        spellings: list[bytes | None] = [None] * vocab_size
        special = [False] * vocab_size
        for token, token_id in ids.items():
            special[token_id] = added.get(token_id, False)
            # Added tokens, special or not, are stored as plain text; all others in the byte-level spelling.
            spellings[token_id] = token.encode() if token_id in added else _bytes_of(token, path)
        return cls(tuple(spellings), tuple(special), bool(ids))

    def text(self, token_id: int) -> str:
        """A printable, possibly lossy text of one token; `[17]` where no tokenizer names the id."""
        spelling = self.spellings[token_id]
        return f"[{token_id}]" if spelling is None else printable(spelling)

    def texts(self) -> list[str]:
        """The text of every token, by its id."""
        return [self.text(token_id) for token_id in range(len(self.spellings))]

    def find(self, text: str) -> int | None:
        """The id of the ordinary token with exactly this text, if there is one."""
        return self._ids.get(text.encode())

    def ordinary(self) -> list[int]:
        """Ids of the tokens that text is made of: no control tokens, and no rows that a tokenizer does not name."""
        named = [spelling is not None or not self.has_tokenizer for spelling in self.spellings]
        return [token_id for token_id, special in enumerate(self.special) if named[token_id] and not special]

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        return {
            spelling: token_id
            for token_id, spelling in enumerate(self.spellings)
            if spelling is not None and not self.special[token_id]
        }

    def sha256(self) -> str:
        """Hash of every id's bytes and kind, so that runs with other tokenizers never share a folder."""
        digest = hashlib.sha256()
        for spelling, special in zip(self.spellings, self.special, strict=True):
            kind = b"-" if spelling is None else b"s" if special else b"t"
            body = spelling or b""
            digest.update(kind + len(body).to_bytes(4, "little") + body)
        return digest.hexdigest()


def printable(spelling: bytes) -> str:
    r"""Text of a token with nothing in it that a terminal or a page would act on.

    Bytes that are no UTF-8 show as `\xNN`; control, format and separator characters (newline, tab, right-to-left
    marks) show as escapes. The space that begins many tokens stays a space.

    Args:
        spelling: the token's bytes.

    Returns:
        The text, without any character of Unicode's categories C and Z but the plain space.
    """
    text = spelling.decode("utf-8", errors="backslashreplace")
    return "".join(
        c if c == " " or unicodedata.category(c)[0] not in "CZ" else c.encode("unicode_escape").decode() for c in text
    )


def _read_ids(path: Path) -> tuple[dict[str, int], dict[int, bool]]:
    """Token -> id as stored, and for each added token's id whether it is special."""
    try:
        if (path / "tokenizer.json").is_file():
            tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
            if "ByteLevel" not in _kinds(json.loads(tokenizer.to_str())["decoder"]):
                raise ValueError("it is not byte-level, as GPT-2's is")
            added = {token_id: token.special for token_id, token in tokenizer.get_added_tokens_decoder().items()}
            return tokenizer.get_vocab(with_added_tokens=True), added
        if (path / "vocab.json").is_file():
            ids = json.loads((path / "vocab.json").read_text(encoding="utf-8"))
            if not all(isinstance(token_id, int) and token_id >= 0 for token_id in ids.values()):
                raise ValueError("vocab.json does not map tokens to ids")
            added = {ids[END_OF_TEXT]: True} if END_OF_TEXT in ids else {}
            if (path / "added_tokens.json").is_file():
                more = json.loads((path / "added_tokens.json").read_text(encoding="utf-8"))
                ids, added = {**ids, **more}, {**dict.fromkeys(more.values(), False), **added}
            return ids, added
    except Exception as error:  # the tokenizers library raises bare Exception for every unreadable file
        raise ValueError(f"tokenizer of {path} cannot be read: {error}") from error
    return {}, {}


def _kinds(decoder: Any) -> list[str]:
    """Types of a decoder and of those it is made of, as tokenizer.json spells them."""
    if not isinstance(decoder, dict):
        return []
    return [decoder["type"], *(kind for part in decoder.get("decoders", []) for kind in _kinds(part))]


@cache
def _byte_of_character() -> dict[str, int]:
    """GPT-2's map from the printable characters of its token files back to bytes.

    Printable Latin-1 bytes stand for themselves; the others, in order, are U+0100, U+0101, ...
    """
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(rest)}


def _bytes_of(token: str, path: Path) -> bytes:
    mapping = _byte_of_character()
    try:
        return bytes(mapping[character] for character in token)
    except KeyError as error:
        raise ValueError(f"token {token!r} of {path} is not in GPT-2's byte-level spelling") from error


def visible(text: str) -> str:
    """A token's printable text with its leading space made visible."""
    return f"_{text[1:]}" if text.startswith(" ") else text
