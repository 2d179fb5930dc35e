"""The tables of a features run, and the shards that write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qkatlas.jobs.loop.table import Table
from qkatlas.outputs.runs.shard import Shard
from qkatlas.outputs.schemas import features as schemas
from qkatlas.pipeline.features.config import DictionaryConfig
from qkatlas.pipeline.features.kinds import RESIDUAL, Z
from qkatlas.pipeline.models.head import Head

FEATURES, HEADS, QK = "features", "heads", "qk"
"""Kinds of shards: a range of a dictionary's features, a head of a dictionary of z, a head that reads a residual."""

SHARD_FEATURES = 4096
"""Features of a shard; a multiple of a block of the encoder."""

_OF_HEAD = "L{layer}H{head}/part-{part:05d}.parquet"
_OF_LAYER = "L{layer}-{reads}/part-{part:05d}.parquet"


def _layer_part(shard: Shard) -> Mapping[str, Any]:
    return {**shard.bounds, "reads": reads_of(shard), "part": shard.bounds["start"] // SHARD_FEATURES}


DICTIONARIES = Table(name="dictionaries", rows="one row a dictionary", schema=schemas.DICTIONARIES)
FEATURE_ROWS = Table(
    name="features", rows="one row a feature", schema=schemas.features(10, 12), file=f"features/{_OF_LAYER}",
    fields=_layer_part, shown={"reads": "z"}, kinds=(FEATURES,),
)  # fmt: skip
CONTEXTS = Table(
    name="contexts", rows="one row for each feature and strong firing", schema=schemas.CONTEXTS,
    file=f"contexts/{_OF_LAYER}", fields=_layer_part, shown={"reads": "z"}, kinds=(FEATURES,),
)  # fmt: skip
DFA = Table(
    name="dfa", rows="one row for each feature and relation of sources", schema=schemas.DFA, file=f"dfa/{_OF_LAYER}",
    fields=_layer_part, shown={"reads": "z"}, kinds=(FEATURES,), when="dictionaries of z",
)  # fmt: skip
ATTRIBUTION = Table(
    name="attribution", rows="one row for each head and feature", schema=schemas.ATTRIBUTION,
    file=f"attribution/{_OF_HEAD}", kinds=(HEADS,), when="dictionaries of z",
)  # fmt: skip
HEAD_ROWS = Table(name="heads", rows="one row a head", schema=schemas.HEADS, when="dictionaries of z")
QK_ROWS = Table(
    name="qk", rows="one row for each kind and query", schema=schemas.qk(10), file=f"qk/{_OF_HEAD}", kinds=(QK,),
    when="dictionaries of a residual stream",
)  # fmt: skip
QK_HEADS = Table(
    name="qk_heads", rows="one row a head", schema=schemas.QK_HEADS, when="dictionaries of a residual stream"
)
TEXTS = Table(name="texts", rows="one row for each window and position", schema=schemas.TEXTS)


def feature_shards(config: DictionaryConfig) -> list[Shard]:
    """A dictionary's features in fixed ranges."""
    group = f"L{config.layer}-{config.reads}"
    return [
        Shard(
            f"{group}-{start:06d}",
            group,
            {
                "layer": config.layer,
                "residual": int(config.reads == RESIDUAL),
                "start": start,
                "stop": min(start + SHARD_FEATURES, config.d_sae),
            },
            FEATURES,
        )
        for start in range(0, config.d_sae, SHARD_FEATURES)
    ]


def reads_of(shard: Shard) -> str:
    """What the dictionary of a shard of features reads."""
    return RESIDUAL if shard.bounds["residual"] else Z


def head_shards(layer: int, n_heads: int, kind: str) -> list[Shard]:
    """The heads of a layer, one a shard.

    Args:
        layer: the layer.
        n_heads: its heads.
        kind: HEADS or QK.
    """
    return [
        Shard(f"{kind}-{Head(layer, head)}", f"{kind}-L{layer}", {"layer": layer, "head": head}, kind)
        for head in range(n_heads)
    ]


def all_shards(configs: Sequence[DictionaryConfig], n_heads: int) -> list[Shard]:
    """The shards of some dictionaries, in the order of a job's steps."""
    found = []
    for config in configs:
        found += feature_shards(config)
        found += head_shards(config.layer, n_heads, HEADS if config.reads == Z else QK)
    return found
