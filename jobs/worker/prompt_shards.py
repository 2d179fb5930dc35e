"""Which shards the model is run on prompts in; needs no weights."""

from __future__ import annotations

from qkatlas.outputs.runs.shard import Shard

PROMPTS_PER_SHARD = 32

CATEGORY_PROMPTS, SEQUENCES = "prompts", "sequences"
"""Kinds of shards, and their groups."""


def prompt_shards(prompts: int, sequences: int) -> list[Shard]:
    """Fixed ranges of the prompts, and one shard for each kind of sequence.

    Args:
        prompts: category prompts; 0 where the model allows none.
        sequences: kinds of behaviour sequences; 0 where the model allows none.
    """
    ranges = [(start, min(start + PROMPTS_PER_SHARD, prompts)) for start in range(0, prompts, PROMPTS_PER_SHARD)]
    return [
        *(
            Shard(f"prompts-{start:06d}", CATEGORY_PROMPTS, {"start": start, "stop": stop}, CATEGORY_PROMPTS)
            for start, stop in ranges
        ),
        *(Shard(f"sequences-{number}", SEQUENCES, {"sequence": number}, SEQUENCES) for number in range(sequences)),
    ]


def prompt_part(shard: Shard) -> dict[str, int]:
    """Number of the part that a range of prompts writes."""
    return {"part": shard.rows.start // PROMPTS_PER_SHARD}
