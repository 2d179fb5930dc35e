"""Category prompts, their masks and the Semantic Category Score, against loops over Hugging Face's own patterns."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2LMHeadModel

from qkatlas.pipeline.models.checkpoint import Checkpoint
from qkatlas.pipeline.models.forward import Forward
from qkatlas.pipeline.models.weights import ModelWeights
from qkatlas.pipeline.passes.semantic import mean_and_std, semantic_category_scores
from qkatlas.pipeline.text.categories import Categories, read_categories, read_words
from qkatlas.pipeline.text.prompts import CategoryPrompts, random_tokens
from qkatlas.pipeline.text.vocabulary import Vocabulary

SOME = Categories(((1, 2, 3), (4, 5), (6, 7, 8, 9)), ())


def test_words_take_their_leading_space_and_others_are_dropped(planted_tiny: Path) -> None:
    vocabulary = Vocabulary.open(planted_tiny, 1024)
    words = [["red", "blue", "unheard-of"], ["dog", "nothing-like-it"], ["Monday", "Monday", "Friday"], ["0", "1"]]
    found = Categories.fit(words, vocabulary)
    find = vocabulary.find
    assert found.token_ids == (
        (find(" red"), find(" blue")), (find(" Monday"), find(" Friday")), (find("0"), find("1"))
    )  # fmt: skip
    assert found.dropped == ("unheard-of", "dog", "nothing-like-it")
    assert Categories.fit(words, Vocabulary((None,) * 9, (False,) * 9, False)).token_ids == ()


def test_the_projects_categories_are_words_of_the_planted_vocabulary(planted_tiny: Path, planted_truth: dict) -> None:
    found = Categories.fit([words for _, words in read_categories()], Vocabulary.open(planted_tiny, 1024))
    planted = [[word["token_ids"][0] for word in category["words"]] for category in planted_truth["categories"]]
    assert [list(tokens) for tokens in found.token_ids] == planted


def test_a_users_categories_are_read_or_refused(tmp_path: Path) -> None:
    file = tmp_path / "words.csv"
    file.write_text("\ufeffred, blue,\n\n,,\nMonday,Friday\n", encoding="utf-8")
    assert read_words(file) == [["red", "blue"], ["Monday", "Friday"]]
    for content, said in ((b",,\n", "holds no words"), (b"\xff\xfe\xff", "cannot be read")):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=said):
            read_words(file)
    with pytest.raises(ValueError, match="No such file"):
        read_words(tmp_path / "none.csv")


def test_prompts_draw_words_of_their_categories_and_grow_with_their_number() -> None:
    many = CategoryPrompts.draw(SOME, bos=0, count=20, length=30, seed=3)
    few = CategoryPrompts.draw(SOME, bos=0, count=5, length=30, seed=3)
    assert np.array_equal(many[:5].tokens_PT, few.tokens_PT)
    assert not np.array_equal(CategoryPrompts.draw(SOME, bos=0, count=5, length=30, seed=4).tokens_PT, few.tokens_PT)
    assert (many.tokens_PT[:, 0] == 0).all()
    for tokens_T, categories_T in zip(many.tokens_PT[:, 1:], many.categories_PT[:, 1:], strict=True):
        assert all(token in SOME.token_ids[category] for token, category in zip(tokens_T, categories_T, strict=True))
    assert set(np.unique(many.tokens_PT)) == set(range(10))
    wide = Categories(tuple((2 * i, 2 * i + 1) for i in range(50)), ())
    prompts = CategoryPrompts.draw(wide, bos=100, count=4, length=60, seed=0)
    assert all(len(np.unique(row[1:])) <= 8 for row in prompts.categories_PT)


def expected_by_loop(tokens: list[int], categories: list[int]) -> list[list[int]]:
    """For each query after BOS the keys it should attend to."""
    rows = []
    for q in range(1, len(tokens)):
        keys = [k for k in range(1, q) if categories[k] == categories[q] and tokens[k] != tokens[q]]
        rows.append(keys or [0])
    return rows


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=12))
def test_masks_are_those_of_a_loop(words: list[tuple[int, int]]) -> None:
    # A token may stand in two categories: what counts is the category that it was drawn from.
    tokens, categories = [9, *(token for token, _ in words)], [0, *(category for _, category in words)]
    expected_TT = CategoryPrompts(np.array([tokens]), np.array([categories])).expected_PTT()[0]
    found = [np.flatnonzero(row).tolist() for row in expected_TT[1:]]
    assert found == expected_by_loop(tokens, categories)


def test_scores_equal_a_loop_over_hugging_faces_patterns(worded_model: Path) -> None:
    checkpoint = Checkpoint.open(worded_model)
    categories = Categories.fit([words for _, words in read_categories()], Vocabulary.open(worded_model, 1024))
    prompts = CategoryPrompts.draw(categories, bos=1023, count=3, length=25, seed=1)
    hf = GPT2LMHeadModel.from_pretrained(worded_model, attn_implementation="eager").eval().double()
    with torch.no_grad():
        patterns = hf(torch.from_numpy(prompts.tokens_PT), output_attentions=True).attentions
    found: dict[int, torch.Tensor] = {}
    model = Forward(ModelWeights.read(checkpoint, "key"))
    model.attention_scores(
        prompts.tokens_PT,
        [0, 2],
        lambda layer, scores: found.update({layer: semantic_category_scores(scores, prompts)}),
    )
    assert list(found) == [0, 2]
    for layer, scores_PN in found.items():
        for prompt in range(3):
            rows = expected_by_loop(prompts.tokens_PT[prompt].tolist(), prompts.categories_PT[prompt].tolist())
            for head in range(8):
                pattern_TT = patterns[layer][prompt, head].numpy()
                surprisals = [-math.log(pattern_TT[q, keys].sum()) for q, keys in enumerate(rows, start=1)]
                assert scores_PN[prompt, head].item() == pytest.approx(np.mean(surprisals), abs=2e-3, rel=1e-3)


def test_a_head_that_attends_elsewhere_by_hundreds_of_nats_has_a_finite_score() -> None:
    prompts = CategoryPrompts(np.array([[9, 1, 2]]), np.array([[0, 0, 0]]))
    scores_PNTT = torch.zeros(1, 1, 3, 3)
    scores_PNTT[0, 0, 2, 2] = 500.0
    assert semantic_category_scores(scores_PNTT, prompts).item() == pytest.approx((math.log(2) + 500.0) / 2)
    assert mean_and_std(np.array([1.0, 3.0])) == (2.0, 1.0)


def test_random_tokens_never_repeat_within_a_prompt() -> None:
    tokens_PT = random_tokens(np.arange(5, 25), bos=3, count=6, length=20, seed=np.random.SeedSequence(1))
    assert (tokens_PT[:, 0] == 3).all()
    assert all(sorted(row[1:]) == list(range(5, 25)) for row in tokens_PT)
