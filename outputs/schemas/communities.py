"""Arrow schemas of the graph of a head's nearest keys, its communities and its layout."""

from __future__ import annotations

import pyarrow as pa

from qkatlas.outputs.schemas.field import field

EDGES = pa.schema(
    [
        field("source_id", pa.int32(), "query token; in an undirected graph the lower of the two ids", unit="id"),
        field("target_id", pa.int32(), "key token; in an undirected graph the higher of the two ids", unit="id"),
        field(
            "weight",
            pa.float32(),
            "1 where each token is among the other's neighbours, 1/2 where one of them is; 1 in a directed graph",
        ),
    ]
)

_COMMUNITY = field(
    "community",
    pa.int32(),
    "community of the token, 0 = the largest; equal sizes by their lowest token id",
    unit="id",
)

COMMUNITIES = pa.schema(
    [
        field("token_id", pa.int32(), "token", unit="id"),
        _COMMUNITY,
        field("x", pa.float32(), "abscissa of the token on the map"),
        field("y", pa.float32(), "ordinate of the token on the map"),
        field("degree", pa.int32(), "edges of the token, in and out; 0 = isolated, a community of its own"),
        field(
            "stability",
            pa.float32(),
            "mean over the other restarts of the Jaccard similarity between the token's community here and there, "
            "1 = always the same tokens; null where there was one restart",
            nullable=True,
        ),
    ]
)

RESTARTS = pa.schema(
    [
        field("restart", pa.int32(), "number of the restart, from 0"),
        field("quality", pa.float64(), "the quality function's value; the highest, then the lowest number, is kept"),
        field("is_best", pa.bool_(), "whether communities.parquet holds this partition"),
        field("n_communities", pa.int32(), "communities of two tokens or more"),
        field("ari_best", pa.float64(), "adjusted Rand index with the best restart; 1 for itself"),
        field(
            "ari_mean",
            pa.float64(),
            "mean adjusted Rand index with the other restarts; null where there was one restart",
            nullable=True,
        ),
    ]
)

MEMBERSHIPS = pa.schema([field("token_id", pa.int32(), "token", unit="id"), _COMMUNITY])
"""The partition of one restart."""
