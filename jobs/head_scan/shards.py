"""Which shards a head scan is cut into, and the files that each leaves; needs no weights."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from qkatlas.jobs.worker.kin_shards import kin_file, kin_shards
from qkatlas.outputs.runs.part import partition
from qkatlas.outputs.runs.shard import Shard
from qkatlas.pipeline.models.head import Head

PROMPTS_PER_SHARD = 32
CATEGORY_PROMPTS, SEQUENCES = "prompts", "sequences"
"""Groups of shards."""


def head_scan_shards(heads: Sequence[Head], vocab_size: int, *, prompts: int, kinds: int) -> list[Shard]:
    """The prompts; then for each layer the kin of fixed ranges of tokens, and one shard a head.

    Args:
        heads: the heads, by layer and place.
        vocab_size: V.
        prompts: category prompts; 0 where the model allows none.
        kinds: kinds of behaviour sequences; 0 where the model allows none.
    """
    shards = prompt_shards(prompts, kinds)
    for layer, of_layer in groupby(heads, key=lambda head: head.layer):
        shards += kin_shards(layer, vocab_size, f"L{layer}")
        shards += [Shard(str(head), f"L{layer}", {"layer": layer, "head": head.index}) for head in of_layer]
    return shards


def prompt_shards(prompts: int, kinds: int) -> list[Shard]:
    """Fixed ranges of the prompts, and one shard for each kind of sequence."""
    ranges = [(start, min(start + PROMPTS_PER_SHARD, prompts)) for start in range(0, prompts, PROMPTS_PER_SHARD)]
    return [
        *(Shard(f"prompts-{start:06d}", CATEGORY_PROMPTS, {"start": start, "stop": stop}) for start, stop in ranges),
        *(Shard(f"sequences-{kind}", SEQUENCES, {"kind": kind}) for kind in range(kinds)),
    ]


def shard_files(shard: Shard) -> tuple[str, ...]:
    """Paths of the parts that a shard writes: `topk` and `self` of a head, `kin`, `prompt_scores`, or none."""
    bounds = shard.bounds
    if shard.group == SEQUENCES:
        return ()
    if shard.group == CATEGORY_PROMPTS:
        return (f"prompt_scores/part-{bounds['start'] // PROMPTS_PER_SHARD:05d}.parquet",)
    if "head" in bounds:
        place = bounds["layer"], bounds["head"], 0
        return partition("topk", *place), partition("self", *place)
    return (kin_file(shard),)
