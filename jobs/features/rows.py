"""Rows of a shard's tables.

Shapes: F features of a shard, K kept firings or tokens, N heads, Y relations, T positions, X width of z.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from qkatlas.outputs.schemas import features as schemas
from qkatlas.pipeline.features.attribution import Explained, Owners
from qkatlas.pipeline.features.config import DictionaryConfig
from qkatlas.pipeline.features.firings import Firings
from qkatlas.pipeline.features.gathered import Gathered
from qkatlas.pipeline.features.measures import Block, Ends, places
from qkatlas.pipeline.features.sources import RELATIONS


def feature_table(
    config: DictionaryConfig,
    features: slice,
    block: Block,
    ends: Ends,
    *,
    norm_F: np.ndarray,
    trained_F: np.ndarray | None,
    owners: Owners | None,
    copies: tuple[np.ndarray, np.ndarray] | None,
    n_heads: int,
) -> pa.Table:
    """The `features` rows of a shard.

    Args:
        config: of the dictionary.
        features: the shard's.
        block: what was measured of them.
        ends: their logits.
        norm_F: lengths of their decoders.
        trained_F: their densities in training; None where the dictionary does not say.
        owners: whose they are; None of a dictionary of a residual stream.
        copies: `copied`, likewise.
        n_heads: N.
    """
    count = features.stop - features.start
    found, shares = block.firings, block.explained
    schema = schemas.features(ends.top_ids_FK.shape[1], n_heads)
    values: dict[str, pa.Array] = {
        "layer": pa.array(np.full(count, config.layer, np.int32)),
        "reads": pa.array([config.reads] * count),
        "feature": pa.array(np.arange(features.start, features.stop, dtype=np.int32)),
        "density": pa.array(found.density_B),
        "density_trained": _numbers(np.full(count, np.nan) if trained_F is None else trained_F),
        "activation_mean": _numbers(found.mean_B),
        "activation_max": pa.array(found.activation_BK[:, 0]),
        "decoder_norm": pa.array(norm_F),
        "logit_top_ids": _lists(ends.top_ids_FK), "logit_top_values": _lists(ends.top_values_FK),
        "logit_bottom_ids": _lists(ends.bottom_ids_FK), "logit_bottom_values": _lists(ends.bottom_values_FK),
    }  # fmt: skip
    if owners is not None and shares is not None and copies is not None:
        values |= _of_heads(owners, shares)
        values |= {"copies_source": _numbers(copies[0]), "copies_source_null": _numbers(copies[1])}
    return pa.Table.from_arrays(
        [values.get(name, pa.nulls(count, schema.field(name).type)) for name in schema.names], schema=schema
    )


def _of_heads(owners: Owners, shares: Explained) -> dict[str, pa.Array]:
    top_F, best_F = _largest(owners.share_BN), _largest(shares.fve_BN)
    rows_F = np.arange(len(top_F))
    return {
        "head_top": pa.array(top_F.astype(np.int32), mask=np.isnan(owners.entropy_B)),
        "head_share_top": _numbers(owners.share_BN[rows_F, top_F]),
        "head_entropy": _numbers(owners.entropy_B),
        "heads_effective": _numbers(np.exp(owners.entropy_B)),
        "fve_top_head": pa.array(best_F.astype(np.int32), mask=np.isnan(shares.fve_BN[:, 0])),
        "fve_top": _numbers(shares.fve_BN[rows_F, best_F]),
        "head_shares": _lists(owners.share_BN.astype(np.float32)),
        "head_fve": _lists(shares.fve_BN.astype(np.float32)),
        "head_fve_active": _lists(shares.fve_active_BN.astype(np.float32)),
        "head_r2": _lists(shares.r2_BN.astype(np.float32)),
    }


def context_table(
    config: DictionaryConfig,
    features: slice,
    firings: Firings,
    tokens_WT: np.ndarray,
    gathered: Gathered | None,
    source_tokens_FK: np.ndarray | None,
) -> pa.Table:
    """The `contexts` rows of a shard.

    Args:
        config: of the dictionary.
        features: the shard's.
        firings: where they fire.
        tokens_WT: int64 [W, T], the text.
        gathered: where these come from; None of a dictionary of a residual stream.
        source_tokens_FK: tokens of the strongest sources, likewise.
    """
    feature_Q, rank_Q = np.nonzero(firings.activation_BK > 0)
    window_Q, position_Q = places(firings.position_BK[feature_Q, rank_Q], tokens_WT.shape[1])
    count = len(feature_Q)
    schema = schemas.CONTEXTS
    values = {
        "layer": pa.array(np.full(count, config.layer, np.int32)),
        "reads": pa.array([config.reads] * count, pa.string()),
        "feature": pa.array((features.start + feature_Q).astype(np.int32)),
        "rank": pa.array((rank_Q + 1).astype(np.int32)),
        "window": pa.array(window_Q.astype(np.int32)),
        "position": pa.array(position_Q.astype(np.int32)),
        "token_id": pa.array(tokens_WT[window_Q, position_Q].astype(np.int32)),
        "activation": pa.array(firings.activation_BK[feature_Q, rank_Q]),
    }
    if gathered is not None and source_tokens_FK is not None:
        none_Q = gathered.position_FK[feature_Q, rank_Q] < 0
        for name, of_FK in (
            ("source_position", gathered.position_FK), ("source_token_id", source_tokens_FK),
            ("source_head", gathered.head_FK),
        ):  # fmt: skip
            values[name] = pa.array(of_FK[feature_Q, rank_Q].astype(np.int32), mask=none_Q)
        values["source_share"] = _numbers(gathered.strength_FK[feature_Q, rank_Q])
    return pa.Table.from_arrays(
        [values.get(name, pa.nulls(count, schema.field(name).type)) for name in schema.names], schema=schema
    )


def dfa_table(layer: int, features: slice, gathered: Gathered) -> pa.Table:
    """The `dfa` rows of a shard: relations that occur up to a feature's strongest firings.

    Args:
        layer: of the dictionary.
        features: the shard's.
        gathered: where its firings come from.
    """
    feature_R, relation_R = np.nonzero(gathered.chance_FY > 0)
    count_R = gathered.count_F[feature_R]
    head_RN = gathered.head_FYN[feature_R, relation_R]
    value_Y = np.array([-1 if value is None else value for _, value in RELATIONS])
    names = [name for name, _ in RELATIONS]
    columns = [
        pa.array(np.full(len(feature_R), layer, np.int32)),
        pa.array(head_RN.argmax(axis=1).astype(np.int32), mask=~(head_RN > 0).any(axis=1)),
        pa.array((features.start + feature_R).astype(np.int32)),
        pa.array([names[relation] for relation in relation_R], pa.string()),
        pa.array(value_Y[relation_R].astype(np.int32), mask=value_Y[relation_R] < 0),
        *(
            pa.array(sums[feature_R, relation_R] / count_R)
            for sums in (gathered.share_FY, gathered.chance_FY, gathered.best_FY)
        ),
        pa.array(count_R.astype(np.int32)),
    ]
    return pa.Table.from_arrays(columns, schema=schemas.DFA)


def _largest(values_FN: np.ndarray) -> np.ndarray:
    """Where the largest value of each row is, the first of equals; 0 of a row of NaN."""
    found: np.ndarray = np.where(np.isnan(values_FN), -np.inf, values_FN).argmax(axis=1)
    return found


def _numbers(values_F: np.ndarray) -> pa.Array:
    return pa.array(values_F, mask=np.isnan(values_F))


def _lists(values_FK: np.ndarray) -> pa.Array:
    """Lists of one length; null where they hold NaN."""
    flat = pa.array(np.ascontiguousarray(values_FK).reshape(-1))
    if values_FK.dtype.kind == "f" and (none_F := np.isnan(values_FK).any(axis=1)).any():
        return pa.FixedSizeListArray.from_arrays(flat, values_FK.shape[1], mask=pa.array(none_F))
    return pa.FixedSizeListArray.from_arrays(flat, values_FK.shape[1])
