"""Token frequencies: a CSV file that says which tokens matter most."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from qkatlas.pipeline.text.vocabulary import Vocabulary, is_text_of

_COLUMNS = ("token", "id", "count")


@dataclass(frozen=True)
class Frequencies:
    """Tokens by how often they occur.

    Attributes:
        file: where they were read.
        token_ids: most frequent first, equal counts by lower id.
        texts: as the file spells them.
        counts: how often each occurs; none where they do not matter.
    """

    file: Path
    token_ids: tuple[int, ...]
    texts: tuple[str, ...]
    counts: tuple[int, ...] = ()

    @classmethod
    def read(cls, file: Path) -> Frequencies:
        """Read a CSV with the columns token, id and count, in any order.

        Args:
            file: the CSV.

        Raises:
            ValueError: if the file cannot be read, is malformed, lists no token or a token twice.
        """
        counted: dict[int, tuple[int, str]] = {}
        try:
            with file.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
                reader = csv.DictReader(stream, strict=True)
                if not set(_COLUMNS) <= set(reader.fieldnames or ()):
                    raise ValueError(f"its first line is not {','.join(_COLUMNS)}")
                for row in reader:
                    token_id, count = _number(row["id"], reader.line_num), _number(row["count"], reader.line_num)
                    if token_id in counted:
                        raise ValueError(f"line {reader.line_num}: id {token_id} is listed twice")
                    counted[token_id] = count, row["token"]
            if not counted:
                raise ValueError("it lists no token")
        except OSError as error:
            raise ValueError(f"--frequencies {file} cannot be read ({error.strerror}); name a CSV file") from error
        except (ValueError, csv.Error) as error:
            raise ValueError(f"--frequencies {file} is malformed ({error}); list {','.join(_COLUMNS)}") from error
        ranked = sorted(counted, key=lambda token_id: (-counted[token_id][0], token_id))
        listed = [counted[token_id] for token_id in ranked]
        return cls(file, tuple(ranked), tuple(text for _, text in listed), tuple(count for count, _ in listed))

    def first(self, count: int | None) -> Frequencies:
        """The most frequent tokens: all if there are fewer, or `count` is None."""
        return Frequencies(self.file, self.token_ids[:count], self.texts[:count], self.counts[:count])

    def require_inside(self, vocab_size: int) -> None:
        """Check that a vocabulary has these tokens.

        Raises:
            ValueError: if it has fewer.
        """
        if max(self.token_ids) >= vocab_size:
            raise ValueError(
                f"--frequencies {self.file} names token {max(self.token_ids)}, but the vocabulary's ids end at "
                f"{vocab_size - 1}; use frequencies counted with the model's own tokenizer"
            )

    def notes(self, vocabulary: Vocabulary) -> Iterator[str]:
        """What is wrong with them if their texts are not the model's; see `mismatch`."""
        if vocabulary.has_tokenizer and (warning := self.mismatch(vocabulary.texts())):
            yield warning

    def mismatch(self, texts: Sequence[str]) -> str | None:
        """A line to say if most tokens are spelt otherwise than in the vocabulary.

        Args:
            texts: the vocabulary's texts, by id.
        """
        wrong = sum(
            not is_text_of(text, texts[token_id]) for token_id, text in zip(self.token_ids, self.texts, strict=True)
        )
        if wrong * 2 <= len(self.texts):
            return None
        return (
            f"{wrong} of {len(self.texts)} texts in --frequencies differ from the model's tokens of the same id; "
            "the ids are used, though another tokenizer may have been counted"
        )


def listed(
    frequencies: Frequencies | None, most_frequent: int | None, default: int | None = None
) -> Frequencies | None:
    """The tokens that `--frequencies` and `--most-frequent` mean together.

    Args:
        frequencies: the file's tokens; None = it was not given.
        most_frequent: how many of them; None = it was not given.
        default: how many are taken where it was not given; None = all.

    Returns:
        The tokens; None = the whole vocabulary.

    Raises:
        ValueError: if there are no frequencies to take them from.
    """
    if frequencies is not None:
        return frequencies.first(most_frequent or default)
    if most_frequent is not None:
        raise ValueError(
            f"--most-frequent {most_frequent} needs the counts; give --frequencies a CSV of token,id,count"
        )
    return None


def _number(text: str | None, line: int) -> int:
    if text is None or not (text.isascii() and text.strip().isdigit() and len(text) < 20):
        raise ValueError(f"line {line}: {text!r} is no number of 0 or more")
    return int(text)
