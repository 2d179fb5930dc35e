"""Random groups of heads, which a group is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import comb

from qkatlas.pipeline.text import streams

DRAWS = 8
"""Random groups, where there are as many."""


def random_groups(group: Sequence[int], n_heads: int, *, seed: int, draws: int = DRAWS) -> list[tuple[int, ...]]:
    """Groups of as many heads as a group has, all different from it and from each other.

    Args:
        group: places of its heads.
        n_heads: heads of the layer.
        seed: of the draws.
        draws: how many; all of them where there are no more.
    """
    own, size = tuple(sorted(group)), len(group)
    if comb(n_heads, size) - 1 <= draws:
        return [other for other in combinations(range(n_heads), size) if other != own]
    found: list[tuple[int, ...]] = []
    number = 0
    while len(found) < draws:
        rng = streams.HEAD_GROUPS.generator(seed, number)
        drawn = tuple(sorted(int(head) for head in rng.choice(n_heads, size, replace=False)))
        if drawn != own and drawn not in found:
            found.append(drawn)
        number += 1
    return found
