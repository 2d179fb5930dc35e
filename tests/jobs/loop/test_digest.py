"""Digests of shared values: the same for the same bits, another for any other."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from qkatlas.jobs.loop.digest import digest_of


@dataclass(frozen=True)
class Pair:
    left: Any
    right: Any


@dataclass(frozen=True)
class Other:
    left: Any
    other: Any


@dataclass(frozen=True)
class Made:
    """A value that knows what it was made from, whatever else it holds."""

    made_from: str
    anything: Any = None

    def identity(self) -> str:
        return self.made_from


dtypes = st.sampled_from([np.float32, np.float64, np.int32, np.int64, np.uint8, np.bool_])
matrices = dtypes.flatmap(
    lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary(), matrices,
    st.sampled_from([np.float32(1), np.float64(1), np.int32(1), np.bool_(True)]),
)  # fmt: skip
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(max_size=2) | st.integers(), inner, max_size=3),
        st.builds(Pair, inner, inner),
        st.builds(Other, inner, inner),
        st.builds(Made, st.text(max_size=2)),
    ),
    max_leaves=6,
)


def copied(value: Any) -> Any:
    """The same value in other objects; arrays lie otherwise in memory."""
    if isinstance(value, np.ndarray):
        return np.asfortranarray(value) if value.ndim else value.copy()
    if isinstance(value, list):
        return tuple(map(copied, value))
    if isinstance(value, dict):
        return {copied(key): copied(held) for key, held in value.items()}
    if isinstance(value, Pair | Other):
        return type(value)(*map(copied, vars(value).values()))
    return value


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same by the rules: types, bits, and the order of keys; written without the digest."""
    if isinstance(one, Made) or isinstance(other, Made):
        return isinstance(one, Made) and isinstance(other, Made) and one.made_from == other.made_from
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return (
            isinstance(one, np.ndarray)
            and isinstance(other, np.ndarray)
            and (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
        )
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return len(one) == len(other) and all(
            same(*keys) and same(one[keys[0]], other[keys[1]]) for keys in zip(one, other, strict=True)
        )
    if isinstance(one, Pair | Other):
        return all(map(same, vars(one).values(), vars(other).values()))
    return bool(one == other and str(one) == str(other))  # 0.0 and -0.0 are equal and not the same


@given(values)
def test_the_same_value_has_the_same_digest(value: Any) -> None:
    assert digest_of(copied(value)) == digest_of(value)


@given(values, values)
def test_other_values_have_other_digests(one: Any, other: Any) -> None:
    assert (digest_of([one]) == digest_of([other])) == same(one, other)


@given(matrices, st.data())
def test_any_bit_of_an_array_counts(matrix: np.ndarray, data: st.DataObject) -> None:
    assume(matrix.nbytes)
    changed = matrix.copy()
    octets = changed.reshape(-1).view(np.uint8)
    octets[data.draw(st.integers(0, len(octets) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    for hold in (lambda inner: inner, lambda inner: Pair(inner, 1), lambda inner: {"states": [inner]}):
        assert digest_of(hold(changed)) != digest_of(hold(matrix))


@given(matrices)
def test_shape_and_type_of_an_array_count(matrix: np.ndarray) -> None:
    others = [matrix[None], matrix.view(f"V{matrix.itemsize}"), matrix.astype(matrix.dtype.newbyteorder())]
    for other in others:
        assume(other.dtype != matrix.dtype or other.shape != matrix.shape)  # one byte has no order
        assert digest_of(other) != digest_of(matrix)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ([[1], 2], [1, [2]]),
        ([1, 2], [12]),
        (["a", "b"], ["ab"]),
        ("1", 1),
        (b"int 1", 1),
        (1, 1.0),
        (1, True),
        (0.0, -0.0),
        (np.float32(1), np.float64(1)),
        (Pair(Pair(1, 2), 3), Pair(1, Pair(2, 3))),
        (Pair(1, 2), Other(1, 2)),
        ([None], []),
        (Made("a"), "a"),
        (np.zeros(2), [0.0, 0.0]),
    ],
)
def test_values_that_are_easily_taken_for_each_other(one: Any, other: Any) -> None:
    assert digest_of([one]) != digest_of([other])


def test_a_value_that_says_what_it_was_made_from_is_not_looked_into() -> None:
    assert digest_of(Made("abc", object())) == "abc"
    assert digest_of([Made("abc", object())]) == digest_of([Made("abc", {1})])
    assert digest_of([Made("abc")]) != digest_of([Made("abd")])


def test_names_of_containers_do_not_count() -> None:
    @dataclass(frozen=True)
    class Renamed:
        left: Any
        right: Any

    assert digest_of(Renamed(1, "x")) == digest_of(Pair(1, "x"))
    assert digest_of((1, 2)) == digest_of([1, 2]) == digest_of(range(1, 3))


@pytest.mark.parametrize(
    "value",
    [
        object(), {1, 2}, frozenset(), len, Pair, np.array([object()]), np.ma.masked_array([1, 2], [True, False]),
        1j, (number for number in (1, 2)),
    ],
)  # fmt: skip
def test_what_cannot_be_told_apart_is_refused(value: Any) -> None:
    for held in (value, [value], {"a": value}, Pair(1, value)):
        with pytest.raises(TypeError, match="has no digest; give it a method identity"):
            digest_of(held)


def test_another_process_finds_the_same_digest() -> None:
    value = {"states": np.arange(6, dtype=np.float32).reshape(2, 3), "k": 3, "words": ["a", "b"]}
    program = (
        "import numpy as np; from qkatlas.jobs.loop.digest import digest_of;"
        "print(digest_of({'states': np.arange(6, dtype=np.float32).reshape(2, 3), 'k': 3, 'words': ['a', 'b']}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest_of(value)
