"""Preselection in 16-bit integers: bound, kernel, hostile data against brute force, and when float32 takes over."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.keys import spread_keys
from support.scoring import assert_same_bits, check_rows, force

from qkatlas.pipeline.scoring import cpu, cpu_int16, cpu_integers, cpu_scan
from qkatlas.pipeline.scoring.cpu_compile import compiled
from qkatlas.pipeline.scoring.cpu_int16 import RoundedKeys
from qkatlas.pipeline.scoring.cpu_tiling import Tiling
from qkatlas.pipeline.scoring.engine import best_keys, score_rows
from qkatlas.pipeline.scoring.rows import PreparedKeys

Matrix = npt.NDArray[np.float32]
PATHS = ("integers", "float32")

needs_vnni = pytest.mark.skipif(not cpu_integers.available(), reason="this processor has no AVX-512 VNNI")


def take_path(patch: pytest.MonkeyPatch, path: str, *, rows: int = 512, keys: int = 1024) -> None:
    """Preselect in this way alone: integers never give up."""
    force(patch, Tiling(rows=rows, keys=keys, integers=path == "integers"))
    patch.setattr(cpu, "too_coarse", lambda rounded, std_R: False)
    patch.setattr(cpu, "OPEN_OF_ROW", np.inf)
    patch.setattr(cpu, "UNDECIDED_SHARE", 1.0)


def crowded(rng: np.random.Generator, count: int, width: int) -> tuple[Matrix, Matrix]:
    """Keys so close to each other, beside two far ones, that rounding to 16 bits puts them in another order."""
    direction = rng.standard_normal(width)
    keys = direction + rng.standard_normal((count, width)) * 2e-4
    keys[0], keys[1] = 3 * direction, -3 * direction
    queries = direction + rng.standard_normal((40, width)) * 1e-2
    return queries.astype(np.float32), keys.astype(np.float32)


def collinear(rng: np.random.Generator, count: int, width: int) -> tuple[Matrix, Matrix]:
    """All vectors nearly one."""
    base = rng.standard_normal(width)
    keys = base * (1 + 1e-6 * rng.standard_normal((count, 1))) + 1e-7 * rng.standard_normal((count, width))
    return (base + 1e-5 * rng.standard_normal((40, width))).astype(np.float32), keys.astype(np.float32)


def long_key(rng: np.random.Generator, count: int, width: int) -> tuple[Matrix, Matrix]:
    """One key a thousand times longer than the rest."""
    keys = rng.standard_normal((count, width))
    keys[rng.integers(count)] *= 1000
    return rng.standard_normal((40, width)).astype(np.float32), keys.astype(np.float32)


def hostile_magnitudes(rng: np.random.Generator, count: int, width: int) -> tuple[Matrix, Matrix]:
    """Huge, tiny, zero and constant rows and keys beside ordinary ones, and many duplicates."""
    scales = np.array([1e-42, 1e-30, 0.0, 1.0, 1.0, 1e30, 1e37])
    queries = rng.standard_normal((40, width)) * rng.choice(scales, (40, 1))
    queries[:3] = np.array([[0.7], [-1e-44], [3e38]])
    keys = rng.standard_normal((count, width)) * rng.choice(scales[[0, 2, 3, 4, rng.integers(7)]], (count, 1))
    keys[rng.integers(0, count, count // 3)] = keys[rng.integers(count)]
    return queries.astype(np.float32), np.clip(keys, -3e38, 3e38).astype(np.float32)


def offset(rng: np.random.Generator, count: int, width: int) -> tuple[Matrix, Matrix]:
    """One dimension so large that float64 dot products round away most of what the others say."""
    keys = rng.standard_normal((count, width)) * 3e-8
    queries = rng.standard_normal((40, width))
    keys[:, 0], queries[:, 0] = 1e8, 1.3
    return queries.astype(np.float32), keys.astype(np.float32)


def ties(rng: np.random.Generator, count: int, width: int) -> tuple[Matrix, Matrix]:
    """Few different scores, so that many tie at the threshold."""
    return tuple(rng.integers(-1, 2, (rows, width)).astype(np.float32) for rows in (40, count))  # type: ignore[return-value]


HOSTILE = {of.__name__: of for of in (crowded, collinear, long_key, hostile_magnitudes, offset, ties)}


def check(queries: Matrix, keys: Matrix, k: int, seed: int = 0) -> None:
    row_ids = np.random.default_rng(seed).integers(0, len(keys), len(queries))
    result = score_rows(queries, PreparedKeys(keys), row_ids_R=row_ids, k=k, scale=0.125)
    check_rows(result, queries, keys, row_ids, k, 0.125)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(sorted(HOSTILE)),
    path=st.sampled_from(PATHS),
    count=st.integers(257, 1500),
    width=st.sampled_from([1, 2, 3, 7, 16, 64, 130]),
    k=st.sampled_from([1, 2, 16, 60]),
    rows=st.sampled_from([1, 5, 6, 40]),
    key_tile=st.sampled_from([64, 100, 1024]),
    seed=st.integers(0, 10**6),
)
def test_hostile_rows_equal_brute_force(
    kind: str, path: str, count: int, width: int, k: int, rows: int, key_tile: int, seed: int
) -> None:
    queries, keys = HOSTILE[kind](np.random.default_rng(seed), count, width)
    with pytest.MonkeyPatch.context() as patch:
        take_path(patch, path, rows=rows, keys=key_tile)
        check(queries, keys, k, seed)


@needs_vnni
@pytest.mark.parametrize("width", [1, 2, 3, 64])
def test_crowded_keys_are_told_apart(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """Half the margin, half the bound of the own rank, or a bound without one of its terms, fails here."""
    take_path(monkeypatch, "integers")
    queries, keys = crowded(np.random.default_rng(width), 1300, width)
    check(queries, keys, 20)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", sorted(HOSTILE))
def test_best_keys_alone_are_the_same(monkeypatch: pytest.MonkeyPatch, kind: str, path: str) -> None:
    queries, keys = HOSTILE[kind](np.random.default_rng(5), 700, 16)
    force(monkeypatch, Tiling(integers=path == "integers"))
    prepared = PreparedKeys(keys)
    expected = score_rows(queries, prepared, row_ids_R=np.zeros(len(queries), np.int64), k=20)
    ids_RK, dots_RK = best_keys(queries, prepared, k=20)
    np.testing.assert_array_equal(ids_RK, expected.key_ids_RK)
    np.testing.assert_array_equal(dots_RK, expected.scores_RK)


def test_best_keys_refuse_bad_arguments() -> None:
    keys = PreparedKeys(np.ones((10, 3), np.float32))
    for change, message in (
        ({"k": 11}, "k is 11"),
        ({"threads": 0}, "threads is 0"),
        ({"queries_RH": np.ones((2, 4), np.float32)}, "head dimension 4, the keys have 3"),
        ({"queries_RH": np.full((2, 3), np.inf, np.float32)}, "query of token id 0 is not finite"),
    ):
        arguments: dict[str, Any] = {"queries_RH": np.ones((2, 3), np.float32), "k": 1} | change
        with pytest.raises(ValueError, match=message):
            best_keys(arguments.pop("queries_RH"), keys, **arguments)


@needs_vnni
def test_a_first_tile_that_is_taken_whole_ends_with_the_last_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """One long key makes the guess too high for all rows, and the margin so wide that the zeros behind fit in."""
    take_path(monkeypatch, "integers")
    check(*long_key(np.random.default_rng(0), 700, 64), 170)


@needs_vnni
@pytest.mark.parametrize("kind", sorted(HOSTILE))
def test_float64_alone_decides_where_integers_do(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    take_path(monkeypatch, "integers")
    check(*HOSTILE[kind](np.random.default_rng(4), 700, 16), 20)


@needs_vnni
@pytest.mark.parametrize("kind", sorted(HOSTILE))
def test_engine_takes_hostile_data_as_it_comes(kind: str) -> None:
    queries, keys = HOSTILE[kind](np.random.default_rng(3), 700, 16)
    check(queries, keys, 20)


def sums_and_errors(queries: Matrix, keys: Matrix) -> tuple[Any, Any]:
    """|t - X.Y| of every row and key, and each row's bound, all from exact integers and long floats."""
    prepared = PreparedKeys(keys)
    ids = np.arange(len(keys), dtype=np.int32)
    rounded_keys = RoundedKeys(prepared, ids, tile_keys=len(keys), packed_bytes=1 << 30)
    mean_H = prepared.moments.mean_H.numpy()
    wide = queries.astype(np.longdouble)
    rounded, _ = rounded_keys.round(queries, np.full(len(queries), np.inf), queries.astype(np.float64) @ mean_H)
    packed, _ = next(rounded_keys.parts())
    pairs = rounded.rows_RH.shape[1] // 2
    keys_VH = packed.reshape(-1, pairs, 64, 2).transpose(0, 2, 1, 3).reshape(-1, 2 * pairs)[: len(keys)]
    sums_RV = rounded.rows_RH[: len(queries)].astype(np.int64) @ keys_VH.T.astype(np.int64)
    assert np.abs(sums_RV).max() < 2**31
    exact_RV = wide @ (keys.astype(np.longdouble) - mean_H).T * rounded.unit_R[:, None]
    return np.abs(exact_RV - sums_RV), rounded.bound_R


@pytest.mark.parametrize("kind", sorted(HOSTILE))
@pytest.mark.parametrize("width", [1, 2, 5, 64])
def test_no_error_exceeds_its_bound(kind: str, width: int) -> None:
    error_RV, bound_R = sums_and_errors(*HOSTILE[kind](np.random.default_rng(width), 400, width))
    assert (error_RV <= bound_R[:, None]).all()


@needs_vnni
def test_sums_are_told_apart_that_float32_rounds_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows and keys of integers, of a length that makes both factors 1: only float32 rounds, when it takes the sums."""
    take_path(monkeypatch, "integers")
    row = np.array([21011, 22051, 23021, 26259])
    assert (row**2).sum() == (46340 - 2) ** 2
    ahead = row - np.random.default_rng(0).integers(0, 12, (1500, 4))
    ahead[0] = row
    keys = np.concatenate([ahead, -ahead]).astype(np.float32)
    queries = row[None].astype(np.float32)
    prepared = PreparedKeys(keys)
    for k in range(2, 400, 3):
        result = score_rows(queries, prepared, row_ids_R=[0], k=k)
        check_rows(result, queries, keys, [0], k, 1.0)


def test_an_error_can_reach_its_bound() -> None:
    """One dimension, keys at both ends: row and key are scaled to 32766.5, half an integer from the next."""
    error_RV, bound_R = sums_and_errors(np.array([[1.0]], np.float32), np.array([[1.0], [-1.0]] * 200, np.float32))
    assert error_RV.max() > 0.999999 * bound_R[0]
    assert error_RV.max() <= bound_R[0]


@needs_vnni
@pytest.mark.parametrize("pairs", [1, 2, 33])
def test_kernel_compares_exact_sums(pairs: int) -> None:
    rng = np.random.default_rng(pairs)
    longest = int(46340 / (2 * pairs) ** 0.5)
    rows_RH = rng.integers(-longest, longest + 1, (12, 2 * pairs)).astype(np.int16)
    keys_NH = rng.integers(-longest, longest + 1, (128, 2 * pairs)).astype(np.int16)
    rows_RH[6], keys_NH[70] = min(longest, 32767), min(longest, 32767)
    packed = keys_NH.reshape(2, 64, pairs, 2).transpose(0, 2, 1, 3).ravel()
    sums_RN = rows_RH.astype(np.int64) @ keys_NH.T.astype(np.int64)
    low_R = np.sort(sums_RN, axis=1)[:, 60].astype(np.int32)
    high_R = np.sort(sums_RN, axis=1)[:, 80].astype(np.int32)
    threshold_R = np.sort(sums_RN, axis=1)[:, 120].astype(np.int32)
    masks = np.zeros((6, 2, 3), np.uint64)
    sums = np.zeros((6, 128), np.int32)

    @compiled
    def run(rows_RH, packed, pairs, low_R, high_R, threshold_R, masks, sums):  # type: ignore[no-untyped-def]
        for chunk in range(2):
            cpu_integers.compare_products(
                rows_RH, 6, packed, chunk, pairs, low_R, high_R, threshold_R, masks, sums, 64 * chunk
            )

    run(rows_RH, packed, pairs, low_R, high_R, threshold_R, masks, sums)
    np.testing.assert_array_equal(sums, sums_RN[6:])
    bits = np.unpackbits(masks.view(np.uint8), bitorder="little").reshape(6, 2, 3, 64).transpose(2, 0, 1, 3)
    at_least = sums >= low_R[6:, None]
    for found, expected in zip(
        bits.reshape(3, 6, 128),
        (at_least, at_least & (sums <= high_R[6:, None]), sums >= threshold_R[6:, None]),
        strict=True,
    ):
        np.testing.assert_array_equal(found.astype(bool), expected)


def count_calls(monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
    plain, calls = getattr(cpu_scan, name), []

    def counted(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        return plain(*arguments, **named)

    monkeypatch.setattr(cpu_scan, name, counted)
    return calls


@needs_vnni
def test_integers_are_chosen_for_ordinary_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    float32 = count_calls(monkeypatch, "scan_tile")
    queries, keys = spread_keys(900, 64)
    score_rows(queries, PreparedKeys(keys), row_ids_R=np.arange(900), k=9)
    assert not float32


def test_without_the_instructions_float32_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, keys = spread_keys(900, 64)
    expected = score_rows(queries, PreparedKeys(keys), row_ids_R=np.arange(900), k=9)
    monkeypatch.setattr(cpu_integers, "available", lambda: False)
    integers, float32 = count_calls(monkeypatch, "scan_integers"), count_calls(monkeypatch, "scan_tile")
    assert_same_bits(expected, score_rows(queries, PreparedKeys(keys), row_ids_R=np.arange(900), k=9))
    assert float32
    assert not integers


@needs_vnni
def test_one_very_long_key_sends_rows_to_float32_before_they_are_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    integers, float32 = count_calls(monkeypatch, "scan_integers"), count_calls(monkeypatch, "scan_tile")
    check(*long_key(np.random.default_rng(0), 1000, 64), 9)
    assert float32
    assert not integers


@pytest.mark.slow
@needs_vnni
def test_rows_that_integers_leave_open_are_redone_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two far clusters spread the scores; within one, integers tell nothing apart."""
    rng = np.random.default_rng(0)
    centre = np.where(np.arange(6000) % 2, 1.0, -1.0)[:, None] * rng.standard_normal(16)
    keys = (centre + 1e-5 * rng.standard_normal((6000, 16))).astype(np.float32)
    integers, float32 = count_calls(monkeypatch, "scan_integers"), count_calls(monkeypatch, "scan_tile")
    dense = []
    monkeypatch.setattr(cpu, "_score_dense_row", lambda *arguments, **named: dense.append(arguments))
    force(monkeypatch, Tiling(rows=30))
    row_ids = np.arange(90)
    result = score_rows(keys[:90], PreparedKeys(keys), row_ids_R=row_ids, k=5, scale=0.125)
    check_rows(result, keys[:90], keys, row_ids, 5, 0.125)
    assert (len(integers), len(float32), dense) == (1, 3 * 6, [])


WITHOUT = """
import numpy as np
from qkatlas.pipeline.scoring import cpu_integers
from qkatlas.pipeline.scoring.engine import best_keys, score_rows
from qkatlas.pipeline.scoring.rows import PreparedKeys
keys = np.random.default_rng(0).standard_normal((600, 8)).astype(np.float32)
found = score_rows(keys, PreparedKeys(keys), row_ids_R=np.arange(600), k=3)
print(cpu_integers.available(), int(found.key_ids_RK.sum()))
"""


@pytest.mark.slow
@needs_vnni
def test_what_is_compiled_for_one_processor_is_not_used_on_another() -> None:
    """Both processes share a cache on disk; numba files what it holds under the processor's features."""
    found = []
    for setting in ({}, {"NUMBA_CPU_FEATURES": "+sse2,+avx,+avx2,+fma", "NUMBA_CPU_NAME": "haswell"}):
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT], env=os.environ | setting, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(done.stdout.split())
    assert [name for name, _ in found] == ["True", "False"]
    assert found[0][1] == found[1][1]


def test_coarseness_is_a_matter_of_many_rows() -> None:
    bound_R, unit_R = np.ones(16), np.ones(16)
    rounded = cpu_int16.RoundedRows(*[np.empty(0)] * 6)._replace(bound_R=bound_R, unit_R=unit_R)
    assert not cpu_int16.too_coarse(rounded, np.where(np.arange(16) < 2, 0.0, 100.0))
    assert cpu_int16.too_coarse(rounded, np.where(np.arange(16) < 3, 0.0, 100.0))
