"""What a features run computes on workers for a range of a dictionary's features.

Shapes: W windows, T positions, P = W (T - 1) positions without BOS, X width of what a dictionary reads, N heads, V
vocabulary, D model, F features of a shard, B features of a block, K kept, Y relations of sources.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from qkatlas.cluster.executor import Grant
from qkatlas.jobs.features import rows
from qkatlas.jobs.features.gathered import Gathered
from qkatlas.jobs.loop.step import Produced
from qkatlas.jobs.worker.prepared import prepared_keys
from qkatlas.outputs.runs.shard import Shard
from qkatlas.pipeline.features.attention import LayerHeads
from qkatlas.pipeline.features.attribution import Explained, explained, owners
from qkatlas.pipeline.features.config import DictionaryConfig
from qkatlas.pipeline.features.convention import Convention, folded
from qkatlas.pipeline.features.encoder import BLOCK_FEATURES, Encoder, normalise
from qkatlas.pipeline.features.firings import Firings, firings
from qkatlas.pipeline.features.kinds import FOLDED, Z
from qkatlas.pipeline.features.logits import written_rows
from qkatlas.pipeline.models.blocks import for_blocks
from qkatlas.pipeline.scoring.engine import best_keys


@dataclass(frozen=True, kw_only=True)
class LayerDictionary:
    """What the shards of one dictionary share.

    Attributes:
        config: of the dictionary.
        tensors: its weights, float32.
        trained_F: densities in training; None where it does not say.
        heads: the layer's heads.
        tokens_WT: int64 [W, T].
        stream_WTD: float32 [W, T, D], what enters the layer.
        convention: how activations are taken.
        limit_P: the k-th largest pre-activations; None but of topk.
        write_XD: float64 [X, D], from what it reads to what meets the unembedding.
        unembedding_VD: float32 [V, D], centred.
        unembedded_from: hash of what the unembedding was made from.
        made_from: hash of the model, the dictionary and how activations are taken.
    """

    config: DictionaryConfig
    tensors: Mapping[str, np.ndarray]
    trained_F: np.ndarray | None
    heads: LayerHeads
    tokens_WT: np.ndarray
    stream_WTD: np.ndarray
    convention: Convention
    limit_P: np.ndarray | None
    write_XD: np.ndarray
    unembedding_VD: np.ndarray
    unembedded_from: str
    made_from: str

    def identity(self) -> str:
        """Hash of all that the rest follows from."""
        digest = hashlib.sha256(self.made_from.encode())
        for values in (self.tokens_WT, self.stream_WTD, self.limit_P):
            if values is not None:
                digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()

    @property
    def encoder(self) -> Encoder:
        """The dictionary as it is applied."""
        return Encoder(config=self.config, tensors=self.tensors)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What is kept of each feature.

    Attributes:
        tokens: of either end of its logits.
        firings: strongest ones.
    """

    tokens: int
    firings: int


def activations(layer: LayerDictionary, *, threads: int) -> torch.Tensor:
    """What a dictionary reads on the text by its convention, float64 [P, X], BOS left out."""
    raw_PX = raw_activations(layer.config, layer.heads, layer.stream_WTD, threads=threads)
    if layer.convention.kind != FOLDED:
        return raw_PX
    return folded(layer.config.reads, raw_PX, folded_constant(layer.config, layer.heads))


def raw_activations(
    config: DictionaryConfig, heads: LayerHeads, stream_WTD: np.ndarray, *, threads: int
) -> torch.Tensor:
    """What a dictionary reads of the model as it is, float64 [P, X], BOS left out."""
    if config.reads == Z:
        return heads.mixed(stream_WTD, threads=threads)[:, 1:].reshape(-1, config.d_in)
    return torch.from_numpy(stream_WTD[:, 1:].reshape(-1, config.d_in).astype(np.float64))


def folded_constant(config: DictionaryConfig, heads: LayerHeads) -> torch.Tensor | None:
    """What tells the convention folded from raw; None of a residual stream that a RMSNorm reads."""
    return heads.constant() if config.reads == Z or heads.scores.norm_kind == "layer" else None


def describe(grant: Grant, shard: Shard, layer: LayerDictionary, kept: Kept) -> Produced:
    """Describe a range of features; runs on a worker, on CPUs.

    Args:
        grant: what the worker may use.
        shard: the range.
        layer: what the shards of its dictionary share.
        kept: what is kept of each feature.
    """
    config, encoder = layer.config, layer.encoder
    x_PX = activations(layer, threads=grant.cpus)
    u_PX = encoder.input(x_PX)
    scale_P = normalise(config, x_PX).scale_P
    limit_P = None if layer.limit_P is None else torch.from_numpy(layer.limit_P)
    n_heads = layer.heads.n_heads
    first, size = shard.rows.start, shard.rows.stop - shard.rows.start
    # Blocks of fixed length, of which each thread holds one: memory does not grow with the dictionary.
    found: list[rows.Block | None] = [None] * -(-size // BLOCK_FEATURES)

    def measure(inside: slice) -> None:
        features = slice(first + inside.start, first + inside.stop)
        active_PB, _ = encoder.encode(u_PX, features, limit_P)
        of_block = firings(active_PB, kept.firings)
        shares: Explained | None = None
        if config.reads == Z:
            shares = explained(x_PX, scale_P, encoder.read(features), active_PB > 0, n_heads)
        found[inside.start // BLOCK_FEATURES] = rows.Block(firings=of_block, explained=shares)

    for_blocks(size, measure, grant.cpus, BLOCK_FEATURES)
    block = rows.Block.joined([one for one in found if one is not None])
    ends = _logits(layer, shard.rows, kept.tokens, threads=grant.cpus)
    of_z, gathered, sources_FK, copies = None, None, None, None
    decoder_FX = layer.tensors["W_dec"][shard.rows]
    if config.reads == Z:
        of_z = owners(decoder_FX, n_heads)
        gathered = _sources(layer, shard.rows, block.firings, threads=grant.cpus)
        window_FK, _ = rows.places(block.firings.position_BK, layer.tokens_WT.shape[1])
        sources_FK = layer.tokens_WT[window_FK, np.maximum(gathered.position_FK, 0)]
        copies = rows.copied(ends, gathered, sources_FK)
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
        "positions": len(x_PX), "fires": float(block.firings.density_B.sum()),
        "silent": int((block.firings.density_B == 0).sum()),
    }  # fmt: skip
    return Produced(tables, summary, {"device": "cpu"})


def _sources(layer: LayerDictionary, features: slice, firings: Firings, *, threads: int) -> Gathered:
    """Where the strongest firings of some features come from, one window after the other."""
    encoder, (count, kept) = layer.encoder, firings.position_BK.shape
    found = Gathered.empty(count, kept, layer.heads.n_heads)
    feature_Q, rank_Q = np.nonzero(firings.activation_BK > 0)
    window_Q, n_Q = rows.places(firings.position_BK[feature_Q, rank_Q], layer.tokens_WT.shape[1])
    constant_X = layer.heads.constant() if layer.convention.kind == FOLDED else None
    starts = range(features.start, features.stop, BLOCK_FEATURES)
    blocks = [encoder.read(slice(start, min(start + BLOCK_FEATURES, features.stop))) for start in starts]
    read_XF = torch.cat(blocks, dim=1)
    for window, tokens_T in enumerate(layer.tokens_WT):
        own_Q = np.flatnonzero(window_Q == window)
        if not len(own_Q):
            continue
        x_TD = torch.from_numpy(layer.stream_WTD[window].astype(np.float64))
        value_TX = layer.heads.values(x_TD)
        if constant_X is not None:
            value_TX = value_TX - constant_X
        firing_Q = feature_Q[own_Q], rank_Q[own_Q], n_Q[own_Q]
        found.add(layer.heads.patterns(x_TD), value_TX, tokens_T, read_XF, firing_Q, threads=threads)
    return found


def _logits(layer: LayerDictionary, features: slice, kept: int, *, threads: int) -> rows.Ends:
    """Tokens of the highest and of the lowest logits of some features."""
    write_FD = written_rows(layer.write_XD, layer.encoder.written(features))
    keys = prepared_keys(layer.unembedded_from, layer.unembedding_VD, "cpu", use="unembedding")
    top_ids_FK, top_values_FK = best_keys(write_FD, keys, k=kept, threads=threads)
    bottom_ids_FK, opposite_FK = best_keys(-write_FD, keys, k=kept, threads=threads)
    return rows.Ends(
        top_ids_FK=top_ids_FK, top_values_FK=top_values_FK, bottom_ids_FK=bottom_ids_FK,
        bottom_values_FK=0 - opposite_FK,
    )  # fmt: skip
