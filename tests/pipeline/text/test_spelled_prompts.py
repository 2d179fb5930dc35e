"""Prompts of words that are several tokens: which words these are, how they stand, and what is measured at them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from support.gguf_files import real_model

from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.prompts import DrawnPrompts
from qkatlas.pipeline.passes.semantic import semantic_category_scores
from qkatlas.pipeline.text.categories import Categories, read_categories
from qkatlas.pipeline.text.prompts import CategoryPrompts, SpelledPrompts
from qkatlas.pipeline.text.vocabulary import Vocabulary

TOKENS = ("<s>", *"0123456789", " ", " red", "blue", " green", " cat", " do", "g", "é")
VOCABULARY = Vocabulary(tuple(token.encode() for token in TOKENS), (True, *(False,) * (len(TOKENS) - 1)), True)


def spell(texts: Sequence[str]) -> list[list[int]]:
    """The longest token first; what no token begins is left out."""
    found = []
    for text in texts:
        ids = []
        while text:
            best = max((t for t in TOKENS if text.startswith(t)), key=len, default="")
            ids += [TOKENS.index(best)] if best else []
            text = text[len(best) or 1 :]
        found.append(ids)
    return found


def test_words_are_spelled_where_a_category_has_too_few_of_one_token() -> None:
    many = [["1", "2"], ["3", "4"]]
    words = [["69", "42", "1989"], ["red", "blue", "green", "dog"], ["cat", "dog", "bird"], ["bat", "cow"], *many]
    found = Categories.fit(words, VOCABULARY, spell=spell)
    sixty, forty = (11, 7, 10), (11, 5, 3)
    assert found.token_ids == ((sixty, forty, (11, 2, 10, 9, 10)), (12, 13, 14), (15, (16, 17)), (2, 3), (4, 5))
    assert found.dropped == ("dog", "bird", "bat", "cow")  # of colours there are enough; the rest has no tokens
    assert Categories.fit(words, VOCABULARY, spell=spell, longest=3).token_ids[0] == (sixty, forty)
    assert Categories.fit(words, VOCABULARY).token_ids == ((12, 13, 14), (2, 3), (4, 5))
    # Few categories of one token do by themselves; where there are none, all are spelled.
    assert Categories.fit(words[:4], VOCABULARY, spell=spell).token_ids == ((12, 13, 14),)
    assert Categories.fit(words[:1], VOCABULARY, spell=spell).token_ids == ((sixty, forty, (11, 2, 10, 9, 10)),)


SEVERAL = Categories((((1, 2, 3), (1, 4), 5), (6, 7), ((8, 8), 9)), ())
FLAT = Categories(((21, 22, 23), (6, 7), (24, 9)), ())
"""The same, with a token of its own for each word."""

SPELLINGS = {21: (1, 2, 3), 22: (1, 4), 23: (5,), 6: (6,), 7: (7,), 24: (8, 8), 9: (9,)}


@pytest.mark.parametrize("length", [3, 7, 30])
def test_words_are_drawn_as_ever_and_written_out_until_the_prompt_is_full(length: int) -> None:
    drawn = CategoryPrompts.draw(SEVERAL, bos=0, count=40, length=length, seed=5)
    plain = CategoryPrompts.draw(FLAT, bos=0, count=40, length=length, seed=5)
    assert isinstance(drawn, SpelledPrompts)
    assert not isinstance(plain, SpelledPrompts)
    for row, words in enumerate(plain.tokens_PT[:, 1:].tolist()):
        tokens = [token for word in words for token in SPELLINGS[word]]
        categories = [c for c, word in zip(plain.categories_PT[row, 1:], words, strict=True) for _ in SPELLINGS[word]]
        ends = [place == len(SPELLINGS[word]) - 1 for word in words for place in range(len(SPELLINGS[word]))]
        assert drawn.tokens_PT[row].tolist() == [0, *tokens[:length]]
        assert drawn.categories_PT[row, 1:].tolist() == categories[:length]
        assert drawn.ends_PT[row].tolist() == [False, *ends[:length]]
    few = drawn[3:5]
    np.testing.assert_array_equal(few.ends_PT, drawn.ends_PT[3:5])
    np.testing.assert_array_equal(few.expected_PTT(), drawn.expected_PTT()[3:5])


def test_scores_are_of_words_not_of_their_pieces() -> None:
    """Queries are the last tokens; keys all tokens of other words of the category, a word's own pieces never."""
    drawn = CategoryPrompts.draw(SEVERAL, bos=0, count=6, length=20, seed=1)
    assert isinstance(drawn, SpelledPrompts)
    scores_PNTT = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 2, 21, 21)))
    found = semantic_category_scores(scores_PNTT, drawn).numpy()
    for p in range(6):
        starts = [1, *(np.flatnonzero(drawn.ends_PT[p]) + 1)]
        words = [tuple(drawn.tokens_PT[p, a:b].tolist()) for a, b in pairwise(starts)]
        for n in range(2):
            surprisals = []
            for place, word in enumerate(words):
                query, category = starts[place + 1] - 1, drawn.categories_PT[p, starts[place]]
                keys = [
                    key
                    for other in range(place)
                    if drawn.categories_PT[p, starts[other]] == category and words[other] != word
                    for key in range(starts[other], starts[other + 1])
                ] or [0]
                mass_T = np.exp(scores_PNTT[p, n, query, : query + 1].numpy())
                surprisals.append(-np.log(mass_T[keys].sum() / mass_T.sum()))
            assert found[p, n] == pytest.approx(np.mean(surprisals), rel=1e-9)


def test_models_of_the_family_gpt2_keep_words_of_one_token(worded_model: Path) -> None:
    drawn = DrawnPrompts.draw(Model.open("test", worded_model), words=None, count=4, length=12, seed=0)
    assert all(isinstance(word, int) for words in drawn.categories.token_ids for word in words)
    assert drawn.table().schema.names == ["prompt", "token_ids", "categories"]


@pytest.mark.real
@pytest.mark.slow
def test_the_real_model_has_numbers_and_years_of_split_digits() -> None:
    model = Model.open("smollm2", real_model())
    drawn = DrawnPrompts.draw(model, words=None, count=40, length=32, seed=0)
    names = [name for name, _ in read_categories()]
    assert len(drawn.categories.token_ids) == len(names)
    text = dict(zip(names, drawn.categories.token_ids, strict=True))
    spelled = {name for name, words in text.items() if not all(isinstance(word, int) for word in words)}
    assert spelled == {"years", "numbers"}
    assert all(isinstance(word, tuple) and len(word) == 5 for word in text["years"])  # a space and four digits
    sixty_nine = [word for word in text["numbers"] if isinstance(word, tuple) and len(word) == 3]
    assert b" 69" in {b"".join(model.vocabulary.spellings[i] or b"" for i in word) for word in sixty_nine}
    table = drawn.table()
    assert table.schema.names == ["prompt", "token_ids", "categories", "word_ends"]
    ends_PT = np.array(table["word_ends"].to_pylist())
    assert 0.7 < ends_PT[:, 1:].mean() < 1
    assert "those of 2 of several tokens" in (drawn.dropped() or "")
