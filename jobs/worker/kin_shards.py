"""Which shards the kin of a layer's tokens are found in; needs no weights."""

from __future__ import annotations

from qkatlas.jobs.worker.ranges import row_ranges
from qkatlas.outputs.runs.shard import Shard


def kin_shards(layer: int, vocab_size: int, group: str) -> list[Shard]:
    """Fixed ranges of tokens; none where a token on its own has no look-alikes.

    Args:
        layer: whose states are compared.
        vocab_size: V.
        group: of the shards.
    """
    ranges = row_ranges(vocab_size if vocab_size > 1 else 0)
    return [Shard(f"L{layer}-kin-{bounds['start']:06d}", group, {"layer": layer, **bounds}, "kin") for bounds in ranges]
