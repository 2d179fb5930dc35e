"""Random streams: the values that stored results stand on, and which streams are apart."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from qkatlas.pipeline.text import streams
from qkatlas.pipeline.text.streams import STREAMS, Stream

KEYS = {
    "TOKENS": 1, "CATEGORY_PROMPTS": 2, "REFERENCE_PROMPTS": 3, "BEHAVIOUR": 4, "PARTNERS": 5, "PASSAGES": 6,
    "STATE_PAIRS": 7, "NULL_OV_HEADS": 8, "RANDOM_WORDS": 9, "BACKGROUND_KEYS": 10, "COMMON_TOKENS": 11, "SHUFFLES": 12,
    "TASKS": 13, "TASK_AUDIT": 14, "RANDOM_WEIGHTS": 15, "CORRUPTED": 16,
}  # fmt: skip


def words(sequence: np.random.SeedSequence) -> tuple[int, ...]:
    return tuple(sequence.generate_state(8).tolist())


@pytest.mark.parametrize("numbers", [(0,), (7, 3), (2**40 + 5, 11, 4), (1, 2, 3, 4)])
@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.name)
def test_a_stream_is_numpys_seed_sequence_of_its_numbers_and_its_old_key(
    stream: Stream, numbers: tuple[int, ...]
) -> None:
    assert getattr(streams, stream.name) is stream
    key = (KEYS[stream.name],) if stream.name in KEYS else ()
    expected = np.random.SeedSequence(list(numbers), spawn_key=key)
    assert words(stream.sequence(*numbers)) == words(expected)
    drawn = np.random.default_rng(expected).integers(0, 2**62, 5)
    np.testing.assert_array_equal(stream.generator(*numbers).integers(0, 2**62, 5), drawn)


def test_every_stream_is_listed_once() -> None:
    named = [value for value in vars(streams).values() if isinstance(value, Stream)]
    assert sorted(stream.name for stream in named) == sorted(stream.name for stream in STREAMS)
    keys = [stream.key for stream in STREAMS if stream.key is not None]
    assert len(set(keys)) == len(keys)


def test_a_part_is_a_further_spawn_key_and_one_number_is_the_number_itself() -> None:
    found = streams.BEHAVIOUR.sequence(5, part=2)
    assert words(found) == words(np.random.SeedSequence(5, spawn_key=(4, 2)))
    assert words(found.spawn(1)[0]) == words(np.random.SeedSequence(5, spawn_key=(4, 2, 0)))
    np.testing.assert_array_equal(
        streams.KEY_ORDER.generator(0).permutation(50), np.random.default_rng(0).permutation(50)
    )


@pytest.mark.parametrize("numbers", [(0,), (3, 1), (3, 1, 0), (3, 1, 0, 2)])
def test_streams_with_a_key_are_apart_from_all_others(numbers: tuple[int, ...]) -> None:
    for one, other in combinations(STREAMS, 2):
        same = words(one.sequence(*numbers)) == words(other.sequence(*numbers))
        assert same == (one.key is None and other.key is None), (one, other)


def test_the_streams_that_coincide_are_the_known_ones() -> None:
    null = words(streams.NULL_HEADS.sequence(3, 1, 5))
    assert words(streams.CONTROLS.sequence(3, 1, 5, 0)) == null
    assert words(streams.CONTROLS.sequence(3, 1, 5, 1)) != null
    assert words(streams.RESTARTS.sequence(3, 1)) == words(streams.NULL_HEADS.sequence(3, 1, 0))
    assert words(streams.CONTROLS.sequence(2**32, 1, 5, 1)) == words(streams.TOKENS.sequence(2**32, 1, 5))
    assert words(streams.CONTROLS.sequence(2**32 - 1, 1, 5, 1)) != words(streams.TOKENS.sequence(2**32 - 1, 1, 5))
