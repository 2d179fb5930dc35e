"""Words of tasks, as single tokens of a model's own vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qkatlas.pipeline.tasks.prompts import IntArray
from qkatlas.pipeline.text.categories import read_categories
from qkatlas.pipeline.text.vocabulary import Vocabulary

Encode = Callable[[str], Sequence[int]]
"""Token ids of a text by the model's own tokenizer."""

LISTS: Mapping[str, tuple[str, ...]] = {
    "days": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "months": ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
               "November", "December"),
    "numbers": ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    "ordinals": ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"),
    "letters": tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
}  # fmt: skip
"""Words that follow each other."""

TURNING = ("days", "months")
"""Lists whose last word is followed by the first."""

PREPOSITIONS = ("to", "at", "with", "for", "on", "in", "from", "by", "of", "about", "into", "over", "under", "through")

VERBS = (
    "talked", "looked", "walked", "worked", "waited", "listened", "played", "argued", "sat", "stood", "moved", "came",
    "ran", "thought", "spoke", "wrote", "talk", "look", "walk", "work", "speak", "think", "say", "tell", "know",
    "run", "jump", "swim", "bake", "roast",
)  # fmt: skip

NOUN_CATEGORIES = (
    "animals", "fruits", "vehicles", "furniture", "waters", "colours", "clothes", "tools", "buildings", "professions",
    "countries",
)  # fmt: skip
"""Categories whose words stand for nouns; a small vocabulary has a few of them."""

LEAST_WORDS = 4
"""Different words that a place in a prompt needs, so that prompts differ."""


@dataclass(frozen=True)
class Words:
    """Finds words of tasks in a vocabulary.

    Attributes:
        vocabulary: the model's.
        encode: by the model's own tokenizer.
    """

    vocabulary: Vocabulary
    encode: Encode

    def spaced(self, words: Sequence[str]) -> IntArray:
        """Words that are one token with a space before them, in order."""
        found = [self.vocabulary.find(f" {word}") for word in words]
        return np.array([token for token in found if token is not None], np.int64)

    def nouns(self) -> IntArray:
        """Nouns that are one token with a space before them."""
        listed = dict(read_categories())
        return self.spaced([word for name in NOUN_CATEGORIES for word in listed[name]])

    def digits(self) -> tuple[IntArray, tuple[int, ...]] | None:
        """The ten digits, and the tokens between a word and a digit: none where a space is part of each digit's token.

        None where the vocabulary has neither.
        """
        joined = self.spaced("0123456789")
        if len(joined) == 10:
            return joined, ()
        alone = [self.vocabulary.find(digit) for digit in "0123456789"]
        space = self.vocabulary.find(" ")
        if space is None or any(token is None for token in alone):
            return None
        return np.array(alone, np.int64), (space,)

    def text(self, text: str) -> IntArray:
        """Tokens of a text."""
        return np.array(self.encode(text), np.int64)
