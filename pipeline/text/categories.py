"""Categories of words, and those of their words that are one token of a vocabulary."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qkatlas.pipeline.text.vocabulary import Vocabulary

CATEGORIES_CSV = Path(__file__).parent / "data" / "categories.csv"

SMALLEST = 2
"""Tokens a category needs: with one, no other of its words can be attended to."""


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
        token_ids: the tokens of each category, in the order of its words, each once.
        dropped: words that are not one token, and words of categories that keep fewer than two.
    """

    token_ids: tuple[tuple[int, ...], ...]
    dropped: tuple[str, ...]

    @classmethod
    def fit(cls, words: Sequence[Sequence[str]], vocabulary: Vocabulary) -> Categories:
        """Find the token of each word.

        A word is taken with a leading space, as it stands in running text, or else as it is written.

        Args:
            words: the words of each category.
            vocabulary: the model's tokens.

        Returns:
            The categories that keep at least two tokens; none for a vocabulary without texts.
        """
        kept: list[tuple[int, ...]] = []
        dropped: list[str] = []
        for category in words:
            found = [vocabulary.find_word(word) for word in category]
            tokens = tuple(dict.fromkeys(token for token in found if token is not None))
            if len(tokens) < SMALLEST:
                dropped += category
                continue
            dropped += [word for word, token in zip(category, found, strict=True) if token is None]
            kept.append(tokens)
        return cls(tuple(kept), tuple(dropped))
