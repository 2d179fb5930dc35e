"""What is measured of a range of a dictionary's features: firings, heads, sources and logits.

Shapes: P positions without BOS, X width of what a dictionary reads, D model, F features of the range, B features of a
block, K kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from qkatlas.pipeline.features.attribution import Explained, explained
from qkatlas.pipeline.features.encoder import BLOCK_FEATURES, normalise
from qkatlas.pipeline.features.firings import Firings, firings
from qkatlas.pipeline.features.gathered import Gathered
from qkatlas.pipeline.features.kinds import FOLDED, Z
from qkatlas.pipeline.features.logits import written_rows
from qkatlas.pipeline.features.on_text import DictionaryOnText, activations
from qkatlas.pipeline.models.blocks import for_blocks, on_one_thread
from qkatlas.pipeline.scoring.engine import best_keys
from qkatlas.pipeline.scoring.rows import PreparedKeys


@dataclass(frozen=True, kw_only=True)
class Block:
    """What was measured of some features; `explained` of a dictionary of z alone."""

    firings: Firings
    explained: Explained | None

    @classmethod
    def joined(cls, blocks: Sequence[Block]) -> Block:
        """Blocks one after the other."""

        def join(kind: type, parts: Sequence[object]) -> dict[str, np.ndarray]:
            return {name: np.concatenate([getattr(part, name) for part in parts]) for name in kind.__annotations__}

        shares = [block.explained for block in blocks if block.explained is not None]
        return cls(
            firings=Firings(**join(Firings, [block.firings for block in blocks])),
            explained=Explained(**join(Explained, shares)) if shares else None,
        )


@dataclass(frozen=True, kw_only=True)
class Ends:
    """Tokens of the highest and of the lowest logits of some features, and these: int32 and float32 [F, K]."""

    top_ids_FK: np.ndarray
    top_values_FK: np.ndarray
    bottom_ids_FK: np.ndarray
    bottom_values_FK: np.ndarray


def measure(layer: DictionaryOnText, features: slice, kept: int, *, threads: int) -> Block:
    """Measure where features fire, and what heads add to their pre-activations.

    Args:
        layer: the dictionary on text.
        features: the range.
        kept: strongest firings to keep of each.
        threads: threads to use; no number depends on it.
    """
    encoder, of_z = layer.encoder, layer.config.reads == Z
    x_PX = activations(layer, threads=threads)
    u_PX, scale_P = on_one_thread(lambda: (encoder.input(x_PX), normalise(layer.config, x_PX).scale_P))
    limit_P = None if layer.limit_P is None else torch.from_numpy(layer.limit_P)
    # Blocks of fixed length, of which each thread holds one: memory does not grow with the dictionary.
    size = features.stop - features.start
    found: list[Block | None] = [None] * -(-size // BLOCK_FEATURES)

    def measure_block(inside: slice) -> None:
        own = slice(features.start + inside.start, features.start + inside.stop)
        active_PB, _ = encoder.encode(u_PX, own, limit_P)
        shares = explained(x_PX, scale_P, encoder.read(own), active_PB > 0, layer.heads.n_heads) if of_z else None
        found[inside.start // BLOCK_FEATURES] = Block(firings=firings(active_PB, kept), explained=shares)

    for_blocks(size, measure_block, threads, BLOCK_FEATURES)
    return Block.joined([one for one in found if one is not None])


def gather(layer: DictionaryOnText, features: slice, found: Firings, *, threads: int) -> Gathered:
    """Find where the strongest firings of features of z come from, one window after the other.

    Args:
        layer: the dictionary on text.
        features: the range.
        found: their firings.
        threads: threads to use; no number depends on it.
    """
    encoder, (count, kept) = layer.encoder, found.position_BK.shape
    gathered = Gathered.empty(count, kept, layer.heads.n_heads)
    feature_Q, rank_Q = np.nonzero(found.activation_BK > 0)
    window_Q, n_Q = places(found.position_BK[feature_Q, rank_Q], layer.tokens_WT.shape[1])
    starts = range(features.start, features.stop, BLOCK_FEATURES)
    blocks = [slice(start, min(start + BLOCK_FEATURES, features.stop)) for start in starts]
    read_XF = on_one_thread(lambda: torch.cat([encoder.read(block) for block in blocks], dim=1))
    for window, tokens_T in enumerate(layer.tokens_WT):
        own_Q = np.flatnonzero(window_Q == window)
        if len(own_Q):
            pattern_NTT, value_TX = on_one_thread(partial(window_of, layer, window))
            firing_Q = feature_Q[own_Q], rank_Q[own_Q], n_Q[own_Q]
            gathered.add(pattern_NTT, value_TX, tokens_T, read_XF, firing_Q, threads=threads)
    return gathered


def window_of(layer: DictionaryOnText, window: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of one window, float64 [N, T, T], and its values by the dictionary's convention, [T, X]."""
    x_TD = torch.from_numpy(layer.stream_WTD[window].astype(np.float64))
    value_TX = layer.heads.values(x_TD)
    if layer.convention.kind == FOLDED:
        value_TX = value_TX - layer.heads.constant()
    return layer.heads.patterns(x_TD), value_TX


def ends_of(layer: DictionaryOnText, features: slice, keys: PreparedKeys, kept: int, *, threads: int) -> Ends:
    """Find the tokens of the highest and of the lowest logits of features.

    Args:
        layer: the dictionary on text.
        features: the range.
        keys: the unembedding, `layer.unembedding_VD`, prepared.
        kept: tokens of either end.
        threads: threads to use; no number depends on it.
    """
    write_FD = on_one_thread(lambda: written_rows(layer.write_XD, layer.encoder.written(features)))
    top_ids_FK, top_values_FK = best_keys(write_FD, keys, k=kept, threads=threads)
    bottom_ids_FK, opposite_FK = best_keys(-write_FD, keys, k=kept, threads=threads)
    return Ends(
        top_ids_FK=top_ids_FK, top_values_FK=top_values_FK, bottom_ids_FK=bottom_ids_FK,
        bottom_values_FK=0 - opposite_FK,
    )  # fmt: skip


def copied(ends: Ends, gathered: Gathered, tokens_FK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How often the strongest source of a firing is a token that the feature promotes, and that the next one does.

    Args:
        ends: logits of the features.
        gathered: their sources.
        tokens_FK: int [F, K], tokens of the strongest sources.

    Returns:
        float64 [F] each; NaN of features without a source.
    """
    has_FK = gathered.position_FK >= 0
    count_F = has_FK.sum(axis=1)

    def share(ids_FK: np.ndarray) -> np.ndarray:
        hit_FK = (tokens_FK[:, :, None] == ids_FK[:, None, :]).any(axis=2) & has_FK
        found: np.ndarray = hit_FK.sum(axis=1) / np.where(count_F > 0, count_F, np.nan)
        return found

    return share(ends.top_ids_FK), share(np.roll(ends.top_ids_FK, -1, axis=0))


def places(position_Q: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows and positions in them of positions that count all but BOS."""
    return position_Q // (length - 1), position_Q % (length - 1) + 1
