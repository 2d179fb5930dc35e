"""What is measured of steered rows, against SciPy and counting by hand."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from qkatlas.pipeline.circuit import steering_measures as measures
from qkatlas.pipeline.circuit.projection import HeadInputs
from qkatlas.pipeline.text.vocabulary import Vocabulary
from qkatlas.pipeline.text.word_tokens import TokenCategory, token_categories


def test_rank_correlations_equal_scipys_with_ties_and_any_number_of_threads() -> None:
    rng = np.random.default_rng(0)
    keys_VH = rng.integers(-2, 3, (57, 4)).astype(np.float32)  # few values, so many ties
    one, two = (HeadInputs(rng.integers(-2, 3, (57, 4)).astype(np.float32), keys_VH, 0.5) for _ in range(2))
    sample_R = measures.sample_rows(57, 21, seed=4)
    ranks = [measures.row_ranks(inputs, sample_R, threads=threads) for inputs, threads in ((one, 1), (two, 3))]
    found_R = measures.spearman(*ranks)
    for row, token in enumerate(sample_R):
        expected = spearmanr(keys_VH @ one.queries_VH[token], keys_VH @ two.queries_VH[token]).statistic
        np.testing.assert_allclose(found_R[row], expected, atol=1e-12)  # NaN where a row is constant, in both


def test_samples_are_distinct_ordered_and_seeded() -> None:
    sample = measures.sample_rows(1000, 64, seed=1)
    assert len(np.unique(sample)) == 64
    assert (np.diff(sample) > 0).all()
    assert (sample != measures.sample_rows(1000, 64, seed=2)).any()
    np.testing.assert_array_equal(sample, measures.sample_rows(1000, 64, seed=1))
    np.testing.assert_array_equal(measures.sample_rows(5, 64, seed=1), np.arange(5))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 6), k=st.integers(1, 8), vocab=st.integers(9, 20))
def test_overlap_counts_shared_keys(seed: int, rows: int, k: int, vocab: int) -> None:
    rng = np.random.default_rng(seed)
    one, two = (np.stack([rng.permutation(vocab)[:k] for _ in range(rows)]).astype(np.int32) for _ in range(2))
    expected = [len(set(a) & set(b)) / k for a, b in zip(one.tolist(), two.tolist(), strict=True)]
    np.testing.assert_allclose(measures.overlap(one, two), expected)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(2, 8))
def test_category_precision_leaves_the_token_out_by_its_id(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    vocab = 12
    best = np.stack([rng.permutation(vocab)[:k] for _ in range(vocab)]).astype(np.int32)
    categories = [TokenCategory("a", np.array([0, 3, 5], np.int32)), TokenCategory("b", np.array([1, 2], np.int32))]
    expected = []
    for category in categories:
        for token in category.token_ids.tolist():
            others = [key for key in best[token].tolist() if key != token][: k - 1]
            expected.append(sum(key in category.token_ids for key in others) / (k - 1))
    np.testing.assert_allclose(measures.category_precision(best, categories), expected)
    assert len(measures.category_precision(best, [])) == 0


def test_categories_are_found_whatever_case_and_leading_space() -> None:
    texts = [b" red", b"Red", b"blue", b"reddish", b" lone", b"  red", None, b"\xff", b"red"]
    vocabulary = Vocabulary(tuple(texts), (False,) * 8 + (True,), True)
    (colours,) = token_categories(vocabulary)
    assert colours.name == "colours"
    assert colours.token_ids.tolist() == [0, 1, 2]


def test_categories_of_a_planted_model_are_the_planted_ones(planted_tiny, planted_truth) -> None:  # type: ignore[no-untyped-def]
    found = {c.name: set(c.token_ids.tolist()) for c in token_categories(Vocabulary.open(planted_tiny, 1024))}
    planted = {
        category["name"]: {token for word in category["words"] for token in word["token_ids"]}
        for category in planted_truth["categories"]
    }
    assert {name: found[name] for name in planted} == planted
