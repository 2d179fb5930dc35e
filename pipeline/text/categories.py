"""Categories of words, and their words as tokens of a vocabulary: one each, or several where there are none of one."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qkatlas.pipeline.text.vocabulary import Vocabulary

CATEGORIES_CSV = Path(__file__).parent / "data" / "categories.csv"

SMALLEST = 2
"""Words a category needs: with one, no other of its words can be attended to."""

LONGEST_WORD = 6
"""Tokens of a word, at most; a year is five where digits are split."""

Word = int | tuple[int, ...]
"""A word as its token, or as its several ones."""

Spell = Callable[[Sequence[str]], list[list[int]]]
"""The tokens of each of some texts, as the model's own tokenizer gives them."""

KNOWN_WORDS = ("red", "69", "Monday", "Italy", "cat", "1989", "apple", "rain")
"""Words of the published keyword categories; those that are one token are shown."""


def read_categories(path: Path = CATEGORIES_CSV) -> list[tuple[str, list[str]]]:
    """Read the category list that comes with the project.

    Args:
        path: CSV file, one category a row: its name, then its words.

    Returns:
        (name, words) pairs in file order.
    """
    with path.open(newline="", encoding="utf-8") as file:
        return [(row[0], row[1:]) for row in csv.reader(file)]


def read_words(path: Path) -> list[list[str]]:
    """Read a user's categories.

    Args:
        path: CSV file, one category a row; every cell is a word.

    Returns:
        The words of each row, in file order, without empty cells and rows.

    Raises:
        ValueError: if the file cannot be read or holds no words.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [[cell.strip() for cell in row if cell.strip()] for row in csv.reader(file)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"--categories {path} cannot be read ({reason}); give a CSV, one category a row") from error
    rows = [row for row in rows if row]
    if not rows:
        raise ValueError(f"--categories {path} holds no words; give a CSV, one category a row")
    return rows


@dataclass(frozen=True)
class Categories:
    """Categories as token ids.

    Attributes:
        token_ids: the words of each category, in their order, each once: by their token, or their several ones.
        dropped: words that are not one token, nor several where that is allowed, and words of categories that keep
            fewer than two.
    """

    token_ids: tuple[tuple[Word, ...], ...]
    dropped: tuple[str, ...]

    @classmethod
    def fit(
        cls,
        words: Sequence[Sequence[str]],
        vocabulary: Vocabulary,
        *,
        spell: Spell | None = None,
        longest: int = LONGEST_WORD,
    ) -> Categories:
        """Find the token of each word.

        A word is taken with a leading space, as it stands in running text, or else as it is written.

        Args:
            words: the words of each category.
            vocabulary: the model's tokens.
            spell: gives the tokens of words of categories that keep fewer than two words of one token, as those of
                numbers do where digits are split. None = such a category is dropped, and so it is where more than
                half of the categories are such, though not all.
            longest: tokens of a word that it may give, at most.

        Returns:
            The categories that keep at least two words; none for a vocabulary without texts.
        """
        kept: list[tuple[Word, ...]] = []
        dropped: list[str] = []
        known: dict[str, Word | None] = {word: vocabulary.find_word(word) for category in words for word in category}
        short = [category for category in words if len({known[word] for word in category} - {None}) < SMALLEST]
        # Of a vocabulary that has words for few categories prompts would be pieces for the most part: these few do.
        if spell is None or len(words) / 2 < len(short) < len(words):
            short = []
        lacking = [word for category in short for word in category if known[word] is None]
        spelled = _spelled(lacking, vocabulary, spell, longest) if spell is not None and lacking else {}
        for category in words:
            more = spelled if category in short else {}
            found = [known[word] if word not in more else more[word] for word in category]
            tokens = tuple(dict.fromkeys(token for token in found if token is not None))
            if len(tokens) < SMALLEST:
                dropped += category
                continue
            dropped += [word for word, token in zip(category, found, strict=True) if token is None]
            kept.append(tokens)
        return cls(tuple(kept), tuple(dropped))


def _spelled(words: Sequence[str], vocabulary: Vocabulary, spell: Spell, longest: int) -> dict[str, Word]:
    """Words as several tokens that together are the word's bytes; those without that are not among them."""
    found: dict[str, Word] = {}
    # All at once, for a tokenizer takes seconds to open; with the space first, which goes before.
    texts = [*(f" {word}" for word in words), *words]
    for word, ids in zip([*words, *words], spell(texts), strict=True):
        whole = b"".join(vocabulary.spellings[token] or b"" for token in ids)
        exact = whole in (f" {word}".encode(), word.encode())
        if exact and 0 < len(ids) <= longest and not any(vocabulary.special[token] for token in ids):
            found.setdefault(word, ids[0] if len(ids) == 1 else tuple(ids))
    return found
