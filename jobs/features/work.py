"""What a features run computes on workers for a range of a dictionary's features.

Shapes: F features of a shard, K kept firings, T positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qkatlas.cluster.executor import Grant
from qkatlas.jobs.features import rows
from qkatlas.jobs.loop.step import Produced
from qkatlas.jobs.worker.prepared import prepared_keys
from qkatlas.outputs.runs.shard import Shard
from qkatlas.pipeline.features.attribution import owners
from qkatlas.pipeline.features.kinds import Z
from qkatlas.pipeline.features.measures import copied, ends_of, gather, measure, places
from qkatlas.pipeline.features.on_text import DictionaryOnText


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What is kept of each feature.

    Attributes:
        tokens: of either end of its logits.
        firings: strongest ones.
    """

    tokens: int
    firings: int


def describe(grant: Grant, shard: Shard, layer: DictionaryOnText, kept: Kept) -> Produced:
    """Describe a range of features; runs on a worker, on CPUs.

    Args:
        grant: what the worker may use.
        shard: the range.
        layer: what the shards of its dictionary share.
        kept: what is kept of each feature.
    """
    config, threads = layer.config, grant.cpus
    block = measure(layer, shard.rows, kept.firings, threads=threads)
    keys = prepared_keys(layer.unembedded_from, layer.unembedding_VD, "cpu", use="unembedding")
    ends = ends_of(layer, shard.rows, keys, kept.tokens, threads=threads)
    n_heads = layer.heads.n_heads
    of_z, gathered, sources_FK, copies = None, None, None, None
    decoder_FX = layer.tensors["W_dec"][shard.rows]
    if config.reads == Z:
        of_z = owners(decoder_FX, n_heads)
        gathered = gather(layer, shard.rows, block.firings, threads=threads)
        window_FK, _ = places(block.firings.position_BK, layer.tokens_WT.shape[1])
        sources_FK = layer.tokens_WT[window_FK, np.maximum(gathered.position_FK, 0)]
        copies = copied(ends, gathered, sources_FK)
    tables = {
        "features": rows.feature_table(
            config, shard.rows, block, ends,
            norm_F=np.linalg.norm(decoder_FX.astype(np.float64), axis=1),
            trained_F=None if layer.trained_F is None else layer.trained_F[shard.rows],
            owners=of_z, copies=copies, n_heads=n_heads,
        ),
        "contexts": rows.context_table(config, shard.rows, block.firings, layer.tokens_WT, gathered, sources_FK),
    }  # fmt: skip
    if gathered is not None:
        tables["dfa"] = rows.dfa_table(config.layer, shard.rows, gathered)
    convention = layer.convention
    summary: dict[str, Any] = {
        "convention": convention.kind, "fvu": convention.fvu, "fvu_folded": convention.fvu_folded,
        "fvu_raw": convention.fvu_raw, "differ": convention.differ, "calibration_positions": convention.positions,
        "positions": layer.tokens_WT[:, 1:].size, "fires": float(block.firings.density_B.sum()),
        "silent": int((block.firings.density_B == 0).sum()),
    }  # fmt: skip
    return Produced(tables, summary, {"device": "cpu"})
