"""Row ranges: the shards that a vocabulary is cut into; needs no weights."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from qkatlas.outputs.runs.shard import Shard
from qkatlas.pipeline.models.head import Head

ROWS_PER_SHARD = 4096
"""Query tokens in a shard, unless a number of shards is asked for: 0.2 s on a core, 2 MB of tables."""


def row_ranges(count: int) -> list[dict[str, int]]:
    """Fixed ranges of rows as the bounds of shards: `part`, `start` and `stop`.

    Args:
        count: rows.
    """
    starts = range(0, count, ROWS_PER_SHARD)
    return [
        {"part": part, "start": start, "stop": min(start + ROWS_PER_SHARD, count)} for part, start in enumerate(starts)
    ]


def row_shards(head: Head, vocab_size: int, count: int | None = None) -> list[Shard]:
    """Row ranges of nearly equal length that cover the vocabulary; they depend on no machine.

    Args:
        head: the head.
        vocab_size: V.
        count: `--shards`; None = pieces of at most ROWS_PER_SHARD tokens.

    Raises:
        ValueError: if there are no pieces, or more than tokens.
    """
    if count is not None and not 1 <= count <= vocab_size:
        raise ValueError(f"--shards {count} is impossible; choose from 1 to the vocabulary's {vocab_size}")
    count = count or -(-vocab_size // ROWS_PER_SHARD)
    return row_shards_between(head, [vocab_size * number // count for number in range(count + 1)])


def row_shards_between(head: Head, edges: Sequence[int]) -> list[Shard]:
    """One shard from each edge to the next."""
    return [_shard(head, part, start, stop) for part, (start, stop) in enumerate(pairwise(edges))]


def _shard(head: Head, part: int, start: int, stop: int) -> Shard:
    bounds = {"layer": head.layer, "head": head.index, "part": part, "start": start, "stop": stop}
    return Shard(f"{head}-{start:06d}-{stop:06d}", str(head), bounds, "rows")
