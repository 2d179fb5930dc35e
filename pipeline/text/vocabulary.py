"""A checkpoint's vocabulary: for each token id its exact bytes, a printable text, and whether it is special."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from qkatlas.pipeline.text.gguf_names import read_gguf_names
from qkatlas.pipeline.text.tokenizer import UnreadableTokenizerError, read_names

SPACE = "\N{MIDDLE DOT}"
"""What shows a space of a token to people."""

_LEADING = re.compile(f"{SPACE}+|_+|\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}+|\N{LOWER ONE EIGHTH BLOCK}+")
"""What people write for the spaces that begin a token."""


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a model, one entry for each token id from 0 to V - 1.

    Attributes:
        spellings: exact bytes of each token; None where no tokenizer names the id.
        special: whether the token is a control token such as `<|endoftext|>`.
        has_tokenizer: False if the checkpoint came without tokenizer files, or with some that cannot be read.
        doubt: a line on a tokenizer that could not be read, or whose reading is doubtful; None if all is well.
    """

    spellings: tuple[bytes | None, ...]
    special: tuple[bool, ...]
    has_tokenizer: bool
    doubt: str | None = field(default=None, compare=False)

    @classmethod
    def open(cls, path: Path, vocab_size: int) -> Vocabulary:
        """Read a checkpoint's tokenizer.

        Args:
            path: the directory, or a GGUF file; without a tokenizer it gives a vocabulary without texts, and so it does
                where the tokenizer cannot be read, which `doubt` says.
            vocab_size: rows of the embedding matrix, V.

        Returns:
            The vocabulary; ids that the tokenizer does not name (padding rows) have no spelling.

        Raises:
            ValueError: if the tokenizer gives an id that is no whole number or lies past the embedding's last row.
        """
        nothing: tuple[None, ...] = (None,) * vocab_size
        try:
            names = read_gguf_names(path) if path.is_file() else read_names(path)
        except UnreadableTokenizerError as error:
            return cls(nothing, (False,) * vocab_size, False, printable(str(error).encode("utf-8", "replace")))
        if names is None:
            return cls(nothing, (False,) * vocab_size, False)
        # Tokens that were added and never given a row of the embedding cannot occur; others past its end are an error.
        beyond = max((i for i in names.spellings if i not in names.added), default=-1)
        if beyond >= vocab_size:
            raise ValueError(
                f"tokenizer of {path} names token id {beyond}, but the model has {vocab_size} tokens; "
                "use the tokenizer the model was trained with"
            )
        spellings = tuple(names.spellings.get(token_id) for token_id in range(vocab_size))
        special = tuple(token_id in names.special for token_id in range(vocab_size))
        return cls(spellings, special, True, names.doubt and printable(names.doubt.encode("utf-8", "replace")))

    def require_readable(self) -> None:
        """Check that the tokenizer, if there is one, could be read; for what needs words.

        Raises:
            ValueError: if it could not.
        """
        if not self.has_tokenizer and self.doubt is not None:
            raise ValueError(self.doubt)

    def text(self, token_id: int) -> str:
        """A printable, possibly lossy text of one token; `[17]` where no tokenizer names the id."""
        spelling = self.spellings[token_id]
        return f"[{token_id}]" if spelling is None else printable(spelling)

    def texts(self) -> list[str]:
        """The text of every token, by its id."""
        return [self.text(token_id) for token_id in range(len(self.spellings))]

    def shown(self, token_id: int) -> str:
        """The text of one token as people see it, with its spaces as middle dots."""
        return visible(self.text(token_id))

    def find(self, text: str) -> int | None:
        """The id of the ordinary token with exactly this text, if there is one."""
        return self._ids.get(text.encode("utf-8", "surrogatepass"))

    def look_up(self, name: str) -> int | None:
        """The token that a person means.

        Args:
            name: `#17` for id 17; or a token's text, its leading space as a space, a middle dot, `_`, or a tokenizer's
                own mark. The exact text goes before other readings, but a middle dot is a space first, as it is shown.

        Returns:
            The id of an ordinary token, or the very id that was given; None if there is none.
        """
        if (number := re.fullmatch(r"#([0-9]{1,18})", name)) and int(number[1]) < len(self.spellings):
            return int(number[1])
        readings = [name, *readings_of(name)]
        if name.startswith(SPACE):
            readings.reverse()
        found = (self.find(text) for text in readings)
        return next((token_id for token_id in found if token_id is not None), self._shown.get(name))

    def name(self, token_id: int) -> str:
        """What `look_up` takes for exactly this token: its text, or `#17` where no text names it."""
        spelling = self.spellings[token_id]
        text = "" if spelling is None else spelling.decode("utf-8", "replace")
        return text if self.look_up(text) == token_id else f"#{token_id}"

    def find_word(self, word: str) -> int | None:
        """The token of a word: with a leading space, as it stands in running text, or else as it is written.

        Args:
            word: the word, or a token as `look_up` takes it.
        """
        if word[:1] in ("#", SPACE) and (named := self.look_up(word)) is not None:
            return named
        spaced = self.find(f" {word}")
        return self.look_up(word) if spaced is None else spaced

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

    @cached_property
    def _shown(self) -> dict[str, int]:
        shown: dict[str, int] = {}
        for token_id in self.ordinary():
            shown.setdefault(self.shown(token_id), token_id)
        return shown

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


def visible(text: str) -> str:
    r"""A token's printable text as people see it: `·red` for ` red`.

    Args:
        text: as `printable` gives it.

    Returns:
        The text with middle dots for its spaces; a middle dot of its own shows as an escape.
    """
    return text.replace(SPACE, "\\u00b7").replace(" ", SPACE)


def readings_of(name: str) -> list[str]:
    """Texts that a person may mean who writes a token's leading space as something else, likeliest last.

    Args:
        name: what was written.

    Returns:
        Other texts than `name`; none for most names.
    """
    readings = []
    if len(name) > 2 and name[0] == name[-1] and name[0] in "'\"":
        readings.append(name[1:-1])
    if mark := _LEADING.match(name):
        readings.append(" " * mark.end() + name[mark.end() :].replace(SPACE, " "))
    return readings


def is_text_of(name: str, text: str) -> bool:
    """Whether a name, its leading space written in whatever way, may stand for a token.

    Args:
        name: what was written.
        text: of the token, as `printable` gives it.
    """
    return name == text or name == visible(text) or text in readings_of(name)
