"""Which shards the kin of a layer's tokens are found in, and the file that each leaves; needs no weights."""

from __future__ import annotations

from qkatlas.jobs.full_vocab.shards import ROWS_PER_SHARD
from qkatlas.outputs.runs.part import layer_partition
from qkatlas.outputs.runs.shard import Shard


def kin_shards(layer: int, vocab_size: int, group: str) -> list[Shard]:
    """Fixed ranges of tokens; none where a token on its own has no look-alikes.

    Args:
        layer: whose states are compared.
        vocab_size: V.
        group: of the shards.
    """
    starts = range(0, vocab_size if vocab_size > 1 else 0, ROWS_PER_SHARD)
    return [
        Shard(
            f"L{layer}-kin-{start:06d}",
            group,
            {"layer": layer, "part": part, "start": start, "stop": min(start + ROWS_PER_SHARD, vocab_size)},
        )
        for part, start in enumerate(starts)
    ]


def kin_file(shard: Shard) -> str:
    """Path of the part that one of `kin_shards` writes."""
    return layer_partition("kin", shard.bounds["layer"], shard.bounds["part"])
