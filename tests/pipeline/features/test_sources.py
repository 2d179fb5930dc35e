"""Source relations pair by pair, and what is gathered of firings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qkatlas.pipeline.features import gathered as gathering
from qkatlas.pipeline.features.gathered import Gathered
from qkatlas.pipeline.features.sources import OFFSETS, RELATIONS, attribute, relations

PLACE = {relation: place for place, relation in enumerate(RELATIONS)}


def test_an_induction_is_known_by_the_token_before() -> None:
    #                    0  1  2  3  4  5  6  7
    tokens = np.array([99, 5, 6, 7, 8, 5, 6, 7])
    found = relations(tokens)
    induction = found[PLACE["induction", None]]
    # Behind the second 7, the 8 follows the first one; three tokens agree.
    assert np.flatnonzero(induction[7]).tolist() == [4]
    assert found[PLACE["prefix", 3], 7, 4]
    assert found[:, 7, 4].sum() == 3  # and its offset
    assert np.flatnonzero(induction[5]).tolist() == [2]
    assert found[PLACE["prefix", 1], 5, 2]
    assert np.flatnonzero(found[PLACE["same_token", None], 7]).tolist() == [3]
    assert not found[PLACE["same_token", None], 1:, 0].any()


def test_every_source_but_bos_has_one_offset() -> None:
    tokens = np.random.default_rng(0).integers(0, 4, 40)
    found = relations(tokens)
    offsets = found[[PLACE["offset", start] for start in OFFSETS]].sum(axis=0)
    behind = np.tril(np.ones((40, 40), np.int64))
    behind[:, 0] = 0
    np.testing.assert_array_equal(offsets, behind)
    np.testing.assert_array_equal(found[PLACE["bos", None]], np.eye(40)[[0] * 40].astype(bool))
    assert found[PLACE["offset", 4], 20, 13:17].all()
    assert not found[PLACE["offset", 4], 20, 17]
    assert not found[PLACE["offset", 4], 20, 12]
    prefixes = found[[PLACE["prefix", length] for length in range(1, 9)]]
    np.testing.assert_array_equal(prefixes.sum(axis=0), found[PLACE["induction", None]].astype(int))
    assert prefixes[7].any() or prefixes[3].any()
    assert not np.triu(found.any(axis=0), 1)[:, 1:].any()


@pytest.mark.parametrize("threads", [1, 2])
def test_what_is_gathered_is_what_is_attributed(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "BLOCK_FIRINGS", 4)
    rng = np.random.default_rng(2)
    n_heads, length, features, kept = 3, 12, 5, 4
    tokens = rng.integers(0, 3, length)
    pattern = np.tril(rng.random((n_heads, length, length)))
    pattern /= pattern.sum(-1, keepdims=True)
    value, read = rng.standard_normal((length, n_heads * 2)), rng.standard_normal((n_heads * 2, features))
    feature_Q = np.array([0, 0, 1, 3, 3, 3, 3, 4, 1])
    rank_Q = np.array([0, 1, 0, 0, 1, 2, 3, 0, 1])
    n_Q = np.array([3, 7, 2, 11, 10, 9, 8, 1, 5])
    found = Gathered.empty(features, kept, n_heads)
    tensors = [torch.from_numpy(one) for one in (pattern, value, read)]
    found.add(tensors[0], tensors[1], tokens, tensors[2], (feature_Q, rank_Q, n_Q), threads=threads)
    holds = torch.from_numpy(relations(tokens))
    sums = np.zeros((features, len(RELATIONS)))
    count = np.zeros(features, int)
    for feature, rank, n in zip(feature_Q, rank_Q, n_Q, strict=True):
        one = attribute(tensors[0], tensors[1], holds, tensors[2][:, [feature]], np.array([n]))
        if np.isnan(one.source_share_Q[0]):
            assert found.position_FK[feature, rank] == -1
            continue
        sums[feature] += one.share_QY[0]
        count[feature] += 1
        assert found.position_FK[feature, rank] == one.source_Q[0] <= n
        assert found.head_FK[feature, rank] == one.head_Q[0]
    np.testing.assert_allclose(found.share_FY, sums, atol=1e-12)
    np.testing.assert_array_equal(found.count_F, count)
    of_offsets = [PLACE["offset", start] for start in OFFSETS] + [PLACE["bos", None]]
    np.testing.assert_allclose(found.share_FY[:, of_offsets].sum(1), count, atol=1e-12)
    assert found.count_F[2] == 0
    assert (found.position_FK[2] == -1).all()
