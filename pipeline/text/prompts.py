"""Prompts for the model's real forward pass: words of categories, and random tokens that repeat.

Shapes: P prompts, T positions (the first is BOS).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qkatlas.pipeline.text import streams
from qkatlas.pipeline.text.categories import Categories

CATEGORIES_PER_PROMPT = 8
"""Categories whose words stand in one prompt, or all there are."""

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class CategoryPrompts:
    """Prompts of category words.

    Attributes:
        tokens_PT: int64 [P, T], BOS and then the words.
        categories_PT: int64 [P, T], the category each word was drawn from; BOS's entry means nothing.
    """

    tokens_PT: IntArray
    categories_PT: IntArray

    @classmethod
    def draw(
        cls,
        categories: Categories,
        *,
        bos: int,
        count: int,
        length: int,
        seed: int,
        per_prompt: int = CATEGORIES_PER_PROMPT,
    ) -> CategoryPrompts:
        """Draw prompts: each takes some categories, and each of its words a category of these and a word of that.

        Args:
            categories: at least one category.
            bos: token id of BOS.
            count: prompts; the first of them are the same for every count.
            length: words of a prompt; its tokens after BOS, if a word is several.
            seed: of the draws.
            per_prompt: categories of a prompt, or all there are.

        Returns:
            The prompts; `SpelledPrompts` if a word is several tokens.
        """
        categories_PT = np.zeros((count, length + 1), np.int64)
        known = len(categories.token_ids)
        sizes = np.array([len(tokens) for tokens in categories.token_ids])
        starts = np.cumsum(sizes) - sizes
        words_PT = np.full((count, length + 1), -1, np.int64)  # by their number among those of all categories
        for prompt in range(count):
            rng = streams.CATEGORY_PROMPTS.generator(seed, prompt)
            chosen = rng.choice(known, min(per_prompt, known), replace=False)
            categories_PT[prompt, 1:] = rng.choice(chosen, length)
            drawn_T = categories_PT[prompt, 1:]
            words_PT[prompt, 1:] = starts[drawn_T] + rng.integers(0, sizes[drawn_T])
        words = [word for category in categories.token_ids for word in category]
        if not all(isinstance(word, int) for word in words):
            spellings = [(word,) if isinstance(word, int) else word for word in words]
            return SpelledPrompts.of_words(words_PT, categories_PT, spellings, bos=bos)
        tokens_PT = np.full((count, length + 1), bos, np.int64)
        tokens_PT[:, 1:] = np.array(words, np.int64)[words_PT[:, 1:]]
        return cls(tokens_PT, categories_PT)

    def queries_PT(self) -> BoolArray | None:
        """Which positions are queries of scores, bool [P, T]: the last token of each word; None where each is one."""
        return None

    def __getitem__(self, prompts: slice | IntArray) -> CategoryPrompts:
        return CategoryPrompts(self.tokens_PT[prompts], self.categories_PT[prompts])

    def expected_PTT(self) -> BoolArray:
        """Which keys each query is expected to attend to, the mask M of the Semantic Category Score.

        Returns:
            bool [P, T, T] over (prompt, query, key): keys before the query of its category and another word; BOS where
            there is none. The row of BOS as a query is BOS itself and no query of the score.
        """
        same = self.categories_PT[:, :, None] == self.categories_PT[:, None, :]
        words_PT = self._words_PT()
        other = words_PT[:, :, None] != words_PT[:, None, :]
        before = np.tri(self.tokens_PT.shape[1], k=-1, dtype=np.bool_)
        expected_PTT: BoolArray = same & other & before
        expected_PTT[:, :, 0] = False
        expected_PTT[:, :, 0] = ~expected_PTT.any(axis=2)
        return expected_PTT

    def _words_PT(self) -> IntArray:
        """What tells words apart: their tokens."""
        return self.tokens_PT


@dataclass(frozen=True)
class SpelledPrompts(CategoryPrompts):
    """Prompts of category words that may be several tokens each.

    A word is known at its last token, which alone is a query of scores; as keys all its tokens count. A prompt is as
    long in tokens as others are in words, and ends within a word where the last one does not fit.

    Attributes:
        words_PT: int64 [P, T], the word that each token is of, by its number among all; -1 for BOS.
        ends_PT: bool [P, T], whether a word ends there.
    """

    words_PT: IntArray
    ends_PT: BoolArray

    @classmethod
    def of_words(
        cls, words_PT: IntArray, categories_PT: IntArray, spellings: Sequence[tuple[int, ...]], *, bos: int
    ) -> SpelledPrompts:
        """Write out words by their tokens, as many as fit.

        Args:
            words_PT: int64 [P, T], BOS's -1 and then numbers of words.
            categories_PT: int64 [P, T], their categories.
            spellings: tokens of each word, by its number; none of more than T - 1.
            bos: token id of BOS.
        """
        count, length = words_PT.shape
        found = cls(
            tokens_PT=np.full((count, length), bos, np.int64),
            categories_PT=np.zeros((count, length), np.int64),
            words_PT=np.full((count, length), -1, np.int64),
            ends_PT=np.zeros((count, length), np.bool_),
        )
        for prompt in range(count):
            place = 1
            for word, category in zip(words_PT[prompt, 1:].tolist(), categories_PT[prompt, 1:].tolist(), strict=True):
                tokens = spellings[word][: length - place]
                here = slice(place, place + len(tokens))
                found.tokens_PT[prompt, here] = tokens
                found.categories_PT[prompt, here] = category
                found.words_PT[prompt, here] = word
                place = here.stop
                found.ends_PT[prompt, place - 1] |= len(tokens) == len(spellings[word])
                if place == length:
                    break
        return found

    def __getitem__(self, prompts: slice | IntArray) -> SpelledPrompts:
        return SpelledPrompts(
            self.tokens_PT[prompts], self.categories_PT[prompts], self.words_PT[prompts], self.ends_PT[prompts]
        )

    def queries_PT(self) -> BoolArray | None:
        """See `CategoryPrompts.queries_PT`."""
        return self.ends_PT

    def _words_PT(self) -> IntArray:
        return self.words_PT


def random_tokens(ordinary: IntArray, *, bos: int, count: int, length: int, seed: np.random.SeedSequence) -> IntArray:
    """Prompts of random tokens, no token twice in a prompt.

    Args:
        ordinary: ids to draw from, at least `length`.
        bos: token id of BOS.
        count: prompts.
        length: tokens of a prompt after BOS.
        seed: of the draws.

    Returns:
        int64 [P, 1 + length].
    """
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(ordinary, length, replace=False) for _ in range(count)]
    return np.concatenate([np.full((count, 1), bos), np.stack(drawn)], axis=1).astype(np.int64)
