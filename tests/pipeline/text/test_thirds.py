"""Thirds of a text: what is held out is nowhere else, windows are of one ring, and every token is of some third."""

from __future__ import annotations

import numpy as np
import pytest

from qkatlas.pipeline.text.thirds import longest_window, windows_of_thirds


@pytest.mark.parametrize(("tokens", "length", "count"), [(99, 9, 7), (100, 34, 3), (101, 2, 40), (1000, 50, 16)])
def test_no_token_of_one_third_is_in_another(tokens: int, length: int, count: int) -> None:
    found = windows_of_thirds(np.arange(tokens), bos=-1, length=length, count=count)
    assert found.shape == (3, count, length)
    assert (found[:, :, 0] == -1).all()
    parts = [set(third[:, 1:].ravel().tolist()) for third in found]
    assert not parts[0] & parts[1]
    assert not (parts[0] | parts[1]) & parts[2]
    if count * (length - 1) >= tokens // 3:
        assert sum(map(len, parts)) >= tokens - 2
    assert all(len(set(window[1:].tolist())) == length - 1 for window in found.reshape(-1, length))


def test_windows_follow_the_text_and_begin_evenly_spread() -> None:
    found = windows_of_thirds(np.arange(300), bos=-1, length=11, count=5)
    # Pieces of 10 are dealt in turn; the second third has 10 to 19, 40 to 49 and so on.
    np.testing.assert_array_equal(found[1, 0, 1:], np.arange(10, 20))
    ring = np.concatenate([np.arange(start, start + 10) for start in range(10, 300, 30)])
    for number, window in enumerate(found[1]):
        np.testing.assert_array_equal(window[1:], np.roll(ring, -20 * number)[:10])


def test_the_longest_window_is_a_third_and_bos() -> None:
    assert longest_window(300) == 101
    found = windows_of_thirds(np.arange(300), bos=-1, length=101, count=2)
    assert len(set(found[0, 0, 1:].tolist())) == 100
