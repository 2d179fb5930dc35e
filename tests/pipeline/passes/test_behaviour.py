"""Behaviour sequences and scores: what the places mean, and Hugging Face's own patterns at them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2LMHeadModel

from qkatlas.pipeline.passes.behaviour import (
    BEHAVIOURS,
    base_rates,
    behaviour_sums,
    block_length,
    causal_pattern,
    draw_sequences,
)


@pytest.mark.slow
@given(block=st.integers(10, 32), seed=st.integers(0, 1000))
def test_places_are_what_their_names_say(block: int, seed: int) -> None:
    drawn = draw_sequences(range(5, 5 + 2 * block), bos=3, block=block, seed=seed)
    assert {name for kind in drawn for name in kind.places} == set(BEHAVIOURS)
    for kind in drawn:
        assert kind.tokens_PT.shape == (16, 1 + 2 * block)
        assert (kind.tokens_PT[:, 0] == 3).all()
        for name, places_Q3 in kind.places.items():
            for sequence, query, key in places_Q3.tolist():
                tokens = kind.tokens_PT[sequence].tolist()
                earlier = [k for k in range(query) if tokens[k] == tokens[query]]
                if name == "bos_share":
                    assert (key, earlier) == (0, [])
                elif name == "previous_token_score":
                    assert (key, earlier) == (query - 1, [])
                elif name == "duplicate_token_score":
                    assert earlier == [key]
                else:  # the key follows the one earlier occurrence, and carries on what the query ends
                    assert earlier == [key - 1]
                if name.startswith("prefix"):
                    length = int(name[-1])
                    matched = [tokens[query - back] == tokens[key - 1 - back] for back in range(length + 1)]
                    assert matched == [True] * length + [False]
                    assert key <= block
                    assert query + 1 == len(tokens) or tokens[query + 1] != tokens[key]


def test_small_models_have_shorter_blocks_or_none() -> None:
    assert block_length(1024, 50000) == 32
    assert block_length(48, 50000) == 23
    assert block_length(1024, 30) == 15
    assert block_length(20, 50000) is None
    assert block_length(1024, 19) is None


def test_sums_are_those_of_hugging_faces_patterns(random_model: Path) -> None:
    kind = draw_sequences(range(1, 211), bos=0, block=20, seed=2)[0]
    hf = GPT2LMHeadModel.from_pretrained(random_model, attn_implementation="eager").eval()
    scores: list[torch.Tensor] = []
    softmax = torch.nn.functional.softmax

    def spy(values: torch.Tensor, dim: int, **options: object) -> torch.Tensor:
        scores.append(values)
        return softmax(values, dim=dim, **options)

    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "softmax", spy)
        pattern = hf(torch.from_numpy(kind.tokens_PT[4:8]), output_attentions=True).attentions[1].numpy()
    np.testing.assert_allclose(causal_pattern(scores[1]).numpy(), pattern, atol=1e-5)
    sums = behaviour_sums(scores[1], kind.places, range(4, 8))
    for name, places_Q3 in kind.places.items():
        here = [(p - 4, q, k) for p, q, k in places_Q3.tolist() if 4 <= p < 8]
        expected_N = np.sum([pattern[p, :, q, k] for p, q, k in here], axis=0)
        np.testing.assert_allclose(sums[name], expected_N, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window", [None, 9])
def test_base_rates_are_the_scores_of_attention_that_falls_at_random(window: int | None) -> None:
    """Heads that put all attention on one key, or spread it over some, drawn anew for every query."""
    rng = np.random.default_rng(0)
    for kind in draw_sequences(range(1, 211), bos=0, block=12, seed=2)[:3]:
        count, length = kind.tokens_PT.shape
        between = np.arange(length)[:, None] - np.arange(length)
        read = (between >= 0) & (between < (window or length))
        expected = base_rates(kind.places, window)
        for sharpness in (0.0, 50.0):  # uniform, and all on one key
            scores = np.where(read, sharpness * rng.standard_normal((count, 60, length, length)), -1e30)
            sums = behaviour_sums(torch.from_numpy(scores), kind.places, range(count))
            for name, sums_N in sums.items():
                found = sums_N.mean() / len(kind.places[name])
                assert found == pytest.approx(expected[name], abs=1e-12 if sharpness == 0 else 0.015), name
    assert base_rates({"bos_share": np.array([[0, 30, 0]])}, 9) == {"bos_share": 0.0}
