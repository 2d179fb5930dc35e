"""The scoring engine on CPU against a brute-force float64 reference, on ordinary and hostile data (about 25 s)."""

from __future__ import annotations

from dataclasses import fields
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.keys import spread_keys
from support.scoring import assert_same_bits, check_rows, force

from qkatlas.pipeline.scoring import cpu, cpu_float32
from qkatlas.pipeline.scoring.cpu_tiling import Tiling
from qkatlas.pipeline.scoring.engine import score_rows
from qkatlas.pipeline.scoring.rows import PreparedKeys, RowScores

Matrix = npt.NDArray[np.float32]


def rows_of(result: RowScores, rows: slice) -> RowScores:
    return RowScores(**{field.name: getattr(result, field.name)[rows] for field in fields(RowScores)})


MAGNITUDES = {
    "ties": lambda rng, shape: rng.integers(-2, 3, shape),
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "offset": lambda rng, shape: rng.standard_normal(shape) * 1e-3 + 5,
    "denormal": lambda rng, shape: rng.standard_normal(shape) * 1e-40,
    "huge": lambda rng, shape: np.clip(rng.standard_normal(shape) * 1e38, -3.4e38, 3.4e38),
    "wide": lambda rng, shape: rng.standard_normal(shape) * 10.0 ** rng.integers(-30, 30, (shape[0], 1)),
    "negative": lambda rng, shape: -np.abs(rng.standard_normal(shape)) - 0.1,
    "positive": lambda rng, shape: np.abs(rng.standard_normal(shape)) + 0.1,
    "constant": lambda rng, shape: np.full(shape, 0.3),
    "zero": lambda rng, shape: np.zeros(shape),
}


@pytest.mark.slow
@settings(max_examples=120, deadline=None)
@given(
    query_kind=st.sampled_from(sorted(MAGNITUDES)),
    key_kind=st.sampled_from(sorted(MAGNITUDES)),
    count=st.integers(1, 330),
    rows=st.integers(1, 12),
    width=st.sampled_from([1, 2, 3, 8, 16, 17, 40, 64, 128]),
    k_share=st.sampled_from([0.0, 0.02, 0.2, 1.0]),
    outlier=st.booleans(),
    duplicates=st.booleans(),
    seed=st.integers(0, 10**6),
    key_tile=st.sampled_from([64, 100, 1024]),
    integers=st.booleans(),
)
@example("positive", "negative", 300, 7, 16, 0.02, True, False, 1, 64, False)
@example("constant", "constant", 300, 7, 16, 0.02, False, False, 1, 64, False)
@example("huge", "huge", 300, 7, 64, 0.02, False, False, 1, 64, False)
@example("denormal", "denormal", 300, 7, 64, 0.02, False, False, 1, 64, False)
@example("normal", "normal", 1, 1, 64, 0.0, False, False, 1, 64, False)
def test_every_field_equals_brute_force(
    query_kind: str,
    key_kind: str,
    count: int,
    rows: int,
    width: int,
    k_share: float,
    outlier: bool,
    duplicates: bool,
    seed: int,
    key_tile: int,
    integers: bool,
) -> None:
    rng = np.random.default_rng(seed)
    queries = MAGNITUDES[query_kind](rng, (rows, width)).astype(np.float32)
    keys = MAGNITUDES[key_kind](rng, (count, width)).astype(np.float32)
    if outlier:
        keys[rng.integers(count)] = np.clip(float(keys.max()) * 1e4, -3e38, 3e38)
        queries[rng.integers(rows)] = 0
    if duplicates:
        keys = keys[rng.integers(0, max(1, count // 4), count)]
    row_ids = rng.integers(0, count, rows)
    k = max(1, round(k_share * count))
    with pytest.MonkeyPatch.context() as patch:
        if count >= 64:
            force(patch, Tiling(rows=5, keys=key_tile, integers=integers))
        result = score_rows(queries, PreparedKeys(keys), row_ids_R=row_ids, k=k, scale=0.125)
    check_rows(result, queries, keys, row_ids, k, 0.125)


@pytest.mark.slow
def test_every_row_of_a_mid_size_vocabulary() -> None:
    queries, keys = spread_keys(2500, 48)
    row_ids = np.arange(2500)
    result = score_rows(queries, PreparedKeys(keys), row_ids_R=row_ids, k=32, scale=48**-0.5, threads=2)
    for start in range(0, 2500, 100):
        rows = slice(start, start + 100)
        check_rows(rows_of(result, rows), queries[rows], keys, row_ids[rows], 32, 48**-0.5)


@pytest.mark.slow
def test_results_do_not_depend_on_threads_shards_tiles_or_row_order(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, keys = spread_keys(1500, 64)
    prepared = PreparedKeys(keys)
    row_ids = np.arange(1500)
    whole = score_rows(queries, prepared, row_ids_R=row_ids, k=20, scale=0.125)
    for tiling in (
        Tiling(rows=7, keys=64),
        Tiling(rows=300, keys=333, packed_bytes=0),
        Tiling(rows=7, keys=64, integers=False),
        Tiling(rows=300, keys=333, packed_bytes=0, integers=False),
        Tiling(rows=64, dense=True),
    ):
        force(monkeypatch, tiling)
        assert_same_bits(whole, score_rows(queries, prepared, row_ids_R=row_ids, k=20, scale=0.125, threads=3))
    monkeypatch.undo()
    for shard in (slice(0, 1), slice(1, 700), slice(700, 1500)):
        part = score_rows(queries[shard], prepared, row_ids_R=row_ids[shard], k=20, scale=0.125, threads=2)
        assert_same_bits(rows_of(whole, shard), part)
    shuffled = np.random.default_rng(5).permutation(1500)
    part = score_rows(queries[shuffled], prepared, row_ids_R=shuffled, k=20, scale=0.125)
    np.testing.assert_array_equal(part.key_ids_RK, whole.key_ids_RK[shuffled])
    np.testing.assert_array_equal(part.row_std_R, whole.row_std_R[shuffled])


def test_both_products_give_the_same_results(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, keys = spread_keys(900, 64)
    results = []
    for onednn in (False, True):
        force(monkeypatch, Tiling(integers=False))
        monkeypatch.setattr(cpu_float32, "_onednn_is_faster", lambda width, tiling, choice=onednn: choice)
        results.append(score_rows(queries, PreparedKeys(keys), row_ids_R=np.arange(900), k=9))
    assert_same_bits(*results)


@pytest.mark.parametrize("integers", [False, True])
def test_threshold_guess_that_fails_is_redone(monkeypatch: pytest.MonkeyPatch, integers: bool) -> None:
    queries, keys = spread_keys(900, 16)
    row_ids = np.arange(900)
    expected = score_rows(queries, PreparedKeys(keys), row_ids_R=row_ids, k=40)
    monkeypatch.setattr(cpu, "sample_rank", lambda kept, seen, count: max(1, kept * seen // count // 3))
    force(monkeypatch, Tiling(rows=64, keys=64, integers=integers))
    assert_same_bits(expected, score_rows(queries, PreparedKeys(keys), row_ids_R=row_ids, k=40))


def test_imprecise_product_is_refused_rather_than_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, keys = spread_keys(900, 16)
    plain = cpu_float32.PackedKeys.product

    def rounded(self: Any, queries_RH: torch.Tensor, tile: int, buffer: torch.Tensor) -> torch.Tensor:
        return plain(self, queries_RH, tile, buffer).bfloat16().float()

    force(monkeypatch, Tiling(integers=False))
    monkeypatch.setattr(cpu_float32.PackedKeys, "product", rounded)
    with pytest.raises(RuntimeError, match="set_float32_matmul_precision"):
        score_rows(queries, PreparedKeys(keys), row_ids_R=np.arange(900), k=4)


def test_self_best_and_self_worst() -> None:
    keys = np.eye(70, dtype=np.float32)
    prepared = PreparedKeys(keys)
    best = score_rows(keys, prepared, row_ids_R=np.arange(70), k=3)
    assert best.self_rank_R.tolist() == [1] * 70
    assert best.key_ids_RK[5].tolist() == [5, 0, 1]
    assert best.best_other_id_R.tolist() == [1] + [0] * 69
    worst = score_rows(-keys, prepared, row_ids_R=np.arange(70), k=2)
    assert worst.self_rank_R.tolist() == [70] * 70
    assert worst.key_ids_RK[0].tolist() == [1, 2]
    assert worst.self_score_R.tolist() == [-1.0] * 70


def test_equal_scores_rank_self_first_and_order_by_id() -> None:
    result = score_rows(
        np.zeros((4, 8), np.float32), PreparedKeys(np.ones((600, 8), np.float32)), row_ids_R=[599, 0, 1, 7], k=5
    )
    assert result.self_rank_R.tolist() == [1, 1, 1, 1]
    assert result.key_ids_RK.tolist() == [[0, 1, 2, 3, 4]] * 4
    assert result.best_other_id_R.tolist() == [0, 1, 0, 0]
    assert result.row_std_R.tolist() == [0.0] * 4


def test_one_key_has_no_best_other() -> None:
    result = score_rows(np.ones((2, 4), np.float32), PreparedKeys(np.ones((1, 4), np.float32)), row_ids_R=[0, 0], k=1)
    assert result.scores_RK.tolist() == [[4.0], [4.0]]
    assert np.ma.getmaskarray(result.best_other_id_R).all()
    assert np.ma.getmaskarray(result.best_other_score_R).all()
    assert result.row_std_R.tolist() == [0.0, 0.0]


def test_no_rows() -> None:
    result = score_rows(
        np.zeros((0, 4), np.float32), PreparedKeys(np.ones((9, 4), np.float32)), row_ids_R=np.zeros(0, np.int64), k=2
    )
    assert result.key_ids_RK.shape == (0, 2)


def test_near_ties_below_float32_resolution_are_decided_in_float64() -> None:
    """Keys 1 + j 2^-23 in a coordinate that float32 scores round away next to a large one."""
    count = 400
    keys = np.zeros((count, 2), np.float32)
    keys[:, 0] = 1 + np.arange(count) * 2.0**-23
    keys[:, 1] = np.where(np.arange(count) % 2, 1000, -1000)
    queries = np.array([[1, 1e-9]], np.float32)
    dots = [Fraction(float(q)) for q in queries[0]]
    exact = [dots[0] * Fraction(float(a)) + dots[1] * Fraction(float(b)) for a, b in keys]
    order = sorted(range(count), key=lambda u: (-exact[u], u))
    result = score_rows(queries, PreparedKeys(keys), row_ids_R=[200], k=10)
    assert result.key_ids_RK[0].tolist() == order[:10]
    assert result.self_rank_R[0] == 1 + sum(value > exact[200] for value in exact)


def test_callers_torch_threads_are_restored() -> None:
    queries, keys = spread_keys(700, 8)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        score_rows(queries, PreparedKeys(keys), row_ids_R=np.arange(700), k=2, threads=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_states_are_refused_by_token_id(value: float) -> None:
    good = np.ones((10, 3), np.float32)
    bad = good.copy()
    bad[4, 1] = value
    with pytest.raises(ValueError, match="key of token id 4 is not finite"):
        PreparedKeys(bad)
    with pytest.raises(ValueError, match="query of token id 9 is not finite"):
        score_rows(bad[3:6], PreparedKeys(good), row_ids_R=[0, 9, 2], k=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k is 0; it must be between 1 and the number of keys, 10"),
        ({"k": 11}, "k is 11"),
        ({"row_ids_R": [0, 10]}, "row_ids_R holds 10; ids must be 0 to 9"),
        ({"row_ids_R": [-1, 0]}, "row_ids_R holds -1"),
        ({"row_ids_R": [0]}, "2 rows need"),
        ({"row_ids_R": [0.0, 1.0]}, "must be integers"),
        ({"scale": 0.0}, "scale is 0.0"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"threads": 0}, "threads is 0"),
        ({"queries_RH": np.ones((2, 4), np.float32)}, "head dimension 4, the keys have 3"),
        ({"queries_RH": np.ones((2, 3))}, "float32 matrix, not float64"),
    ],
)
def test_bad_arguments_are_refused(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"queries_RH": np.ones((2, 3), np.float32), "row_ids_R": [0, 1], "k": 1} | change
    queries = arguments.pop("queries_RH")
    with pytest.raises(ValueError, match=message):
        score_rows(queries, PreparedKeys(np.ones((10, 3), np.float32)), **arguments)
