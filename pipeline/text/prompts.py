"""Prompts for the model's real forward pass: words of categories, and random tokens that repeat.

Shapes: P prompts, T positions (the first is BOS).
"""

from __future__ import annotations

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
            length: words of a prompt.
            seed: of the draws.
            per_prompt: categories of a prompt, or all there are.

        Returns:
            The prompts.
        """
        tokens_PT = np.full((count, length + 1), bos, np.int64)
        categories_PT = np.zeros((count, length + 1), np.int64)
        known = len(categories.token_ids)
        sizes = np.array([len(tokens) for tokens in categories.token_ids])
        starts = np.cumsum(sizes) - sizes
        tokens = np.concatenate([np.array(tokens, np.int64) for tokens in categories.token_ids])
        for prompt in range(count):
            rng = streams.CATEGORY_PROMPTS.generator(seed, prompt)
            chosen = rng.choice(known, min(per_prompt, known), replace=False)
            categories_PT[prompt, 1:] = rng.choice(chosen, length)
            drawn_T = categories_PT[prompt, 1:]
            tokens_PT[prompt, 1:] = tokens[starts[drawn_T] + rng.integers(0, sizes[drawn_T])]
        return cls(tokens_PT, categories_PT)

    def __getitem__(self, prompts: slice) -> CategoryPrompts:
        return CategoryPrompts(self.tokens_PT[prompts], self.categories_PT[prompts])

    def expected_PTT(self) -> BoolArray:
        """Which keys each query is expected to attend to, the mask M of the Semantic Category Score.

        Returns:
            bool [P, T, T] over (prompt, query, key): keys before the query of its category that are another token; BOS
            where there is none. The row of BOS as a query is BOS itself and no query of the score.
        """
        same = self.categories_PT[:, :, None] == self.categories_PT[:, None, :]
        other = self.tokens_PT[:, :, None] != self.tokens_PT[:, None, :]
        before = np.tri(self.tokens_PT.shape[1], k=-1, dtype=np.bool_)
        expected_PTT: BoolArray = same & other & before
        expected_PTT[:, :, 0] = False
        expected_PTT[:, :, 0] = ~expected_PTT.any(axis=2)
        return expected_PTT


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
