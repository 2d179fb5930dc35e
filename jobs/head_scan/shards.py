"""Which shards a head scan is cut into; needs no weights."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from qkatlas.jobs.worker.kin_shards import kin_shards
from qkatlas.jobs.worker.prompt_shards import prompt_shards
from qkatlas.outputs.runs.shard import Shard
from qkatlas.pipeline.models.head import Head

HEADS = "heads"
"""Kind of the shards that are one head each."""


def head_scan_shards(heads: Sequence[Head], vocab_size: int, *, prompts: int, sequences: int) -> list[Shard]:
    """The prompts; then for each layer the kin of fixed ranges of tokens, and one shard a head.

    Args:
        heads: the heads, by layer and place.
        vocab_size: V.
        prompts: category prompts; 0 where the model allows none.
        sequences: kinds of behaviour sequences; 0 where the model allows none.
    """
    shards = prompt_shards(prompts, sequences)
    for layer, of_layer in by_layer(heads):
        shards += layer_kin_shards(layer, vocab_size)
        shards += head_shards(of_layer)
    return shards


def by_layer(heads: Sequence[Head]) -> list[tuple[int, list[Head]]]:
    """Heads, which are in order of their layers, layer by layer."""
    return [(layer, list(of_layer)) for layer, of_layer in groupby(heads, key=lambda head: head.layer)]


def layer_kin_shards(layer: int, vocab_size: int) -> list[Shard]:
    """Fixed ranges of tokens whose kin are found; heads and kin of a layer are one group, for they share its states."""
    return kin_shards(layer, vocab_size, f"L{layer}")


def head_shards(heads: Sequence[Head]) -> list[Shard]:
    """One shard a head."""
    return [Shard(str(head), f"L{head.layer}", {"layer": head.layer, "head": head.index}, HEADS) for head in heads]
