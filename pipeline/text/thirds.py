"""A text in three thirds of its pieces, and windows of each: two thirds to take means from, one to compare with.

Shapes: W tokens of a text, B windows of a third, T positions of a window, the first of which is BOS.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

_PIECES = 4
"""Pieces of each third at least, so that no third is of one part of the text alone."""


def longest_window(tokens: int) -> int:
    """Positions of the longest window, BOS among them, that a text of so many tokens allows."""
    return tokens // 3 + 1


def windows_of_thirds(tokens_W: IntArray, *, bos: int, length: int, count: int) -> IntArray:
    """Windows of the three thirds of a text.

    The text is cut into pieces, which are dealt to the thirds in turn; the pieces of a third follow each other, the
    first again behind the last. Its windows begin evenly spread over it, so that they overlap where it is short, and no
    token of one third is in a window of another.

    Args:
        tokens_W: int64 [W].
        bos: token id of BOS, in front of each window.
        length: positions of a window, T, at most `longest_window`.
        count: windows of each third, B.

    Returns:
        int64 [3, B, T].
    """
    third = len(tokens_W) // 3
    assert 2 <= length <= third + 1, length
    size = max(1, min(length - 1, third // _PIECES))
    whole = len(tokens_W) // (3 * size) * 3 * size
    dealt = tokens_W[:whole].reshape(-1, 3, size).transpose(1, 0, 2).reshape(3, -1)
    # What is left is dealt as evenly as it can be.
    rest = np.array_split(tokens_W[whole : whole + (len(tokens_W) - whole) // 3 * 3], 3)
    found = np.empty((3, count, length), np.int64)
    found[:, :, 0] = bos
    for number, (own, more) in enumerate(zip(dealt, rest, strict=True)):
        ring = np.concatenate([own, more])
        starts = np.arange(count) * len(ring) // count
        found[number, :, 1:] = ring[(starts[:, None] + np.arange(length - 1)) % len(ring)]
    return found
