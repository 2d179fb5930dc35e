"""The notebook's own score: attention on expected keys, against plain loops."""

from __future__ import annotations

import numpy as np
import torch

from qkatlas.pipeline.passes.semantic import masked_attention
from qkatlas.pipeline.text.categories import Categories
from qkatlas.pipeline.text.prompts import CategoryPrompts


def by_loops(scores_NTT: np.ndarray, tokens_T: np.ndarray, categories_T: np.ndarray) -> np.ndarray:
    found = []
    for scores_TT in scores_NTT:
        marked = []
        for query in range(1, len(tokens_T)):
            row = np.exp(scores_TT[query, : query + 1])
            row /= row.sum()
            marked += [
                row[key]
                for key in range(1, query)
                if categories_T[key] == categories_T[query] and tokens_T[key] != tokens_T[query]
            ]
        found.append(np.mean(marked))
    return np.array(found)


def test_it_is_the_mean_over_marked_pairs() -> None:
    categories = Categories(((1, 2, 3), (4, 5), (6, 7, 8, 9)), ())
    prompts = CategoryPrompts.draw(categories, bos=0, count=3, length=12, seed=0, per_prompt=2)
    scores_PNTT = np.random.default_rng(0).normal(size=(3, 2, 13, 13))
    found_PN = masked_attention(torch.from_numpy(scores_PNTT), prompts).numpy()
    for prompt in range(3):
        expected_N = by_loops(scores_PNTT[prompt], prompts.tokens_PT[prompt], prompts.categories_PT[prompt])
        np.testing.assert_allclose(found_PN[prompt], expected_N, rtol=1e-12)
        assert len(set(prompts.categories_PT[prompt, 1:])) <= 2


def test_a_prompt_without_pairs_has_no_score() -> None:
    prompts = CategoryPrompts(np.array([[0, 1, 1, 4], [0, 1, 2, 4]]), np.array([[0, 0, 0, 1], [0, 0, 0, 1]]))
    found_PN = masked_attention(torch.zeros(2, 1, 4, 4), prompts)
    assert torch.isnan(found_PN[0, 0])
    assert found_PN[1, 0] == 1 / 3  # the third position attends evenly to three
