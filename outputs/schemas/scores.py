"""Arrow schemas of tokens and their scores; each field says its unit and shape in its metadata."""

from __future__ import annotations

import pyarrow as pa

from qkatlas.outputs.schemas.field import field

TOKENS = pa.schema(
    [
        field("token_id", pa.int32(), "row of the embedding matrix", unit="id"),
        field("text", pa.string(), "printable text of the token; lossy"),
        field("bytes", pa.binary(), "exact bytes of the token; null where no tokenizer names the id", nullable=True),
        field("is_special", pa.bool_(), "whether the token is a control token, such as <|endoftext|>"),
    ]
)


def topk(k: int) -> pa.Schema:
    """Schema of a `topk` part.

    Args:
        k: keys kept for each query.

    Returns:
        The schema, with lists of exactly k entries.
    """
    shape = f"[{k}]"
    return pa.schema(
        [
            field("token_id", pa.int32(), "query token", unit="id"),
            field(
                "key_ids",
                pa.list_(pa.int32(), k),
                "keys with the highest scores, best first; equal scores by lower id",
                unit="id",
                shape=shape,
            ),
            field(
                "scores",
                pa.list_(pa.float32(), k),
                "scores of those keys",
                unit="nats",
                shape=shape,
            ),
        ]
    )


SELF = pa.schema(
    [
        field("token_id", pa.int32(), "query token, and the key it is compared with", unit="id"),
        field("self_score", pa.float32(), "score of the token to itself", unit="nats"),
        field("self_rank", pa.int32(), "1 + number of keys with a higher score than the token itself", unit="rank"),
        field("row_mean", pa.float32(), "mean score over all keys", unit="nats"),
        field("row_std", pa.float32(), "standard deviation of the score over all keys (divisor V)", unit="nats"),
        field("self_z", pa.float32(), "(self_score - row_mean) / row_std; null where row_std is 0", nullable=True),
        field(
            "best_other_id",
            pa.int32(),
            "key with the highest score but the token itself; null in a vocabulary of one",
            unit="id",
            nullable=True,
        ),
        field("best_other_score", pa.float32(), "score of that key", unit="nats", nullable=True),
        field("self_gap", pa.float32(), "best_other_score - self_score", unit="nats", nullable=True),
    ]
)

SELF_WITH_KIN = pa.schema(
    [
        *SELF,
        field("kin_z", pa.float32(), "mean over the token's kin u of (score of u - row_mean) / row_std", nullable=True),
        field("suppression_index", pa.float32(), "kin_z - self_z: above 0 where kin are preferred", nullable=True),
    ]
)

BEST = pa.schema(
    [
        field("token_id", pa.int32(), "query token", unit="id"),
        field("key_id", pa.int32(), "key with the highest score, the lower id of equals", unit="id"),
    ]
)
"""What is counted to find hubs."""

HUBS = pa.schema(
    [
        field("layer", pa.int32(), "layer of the head, from 0"),
        field("head", pa.int32(), "place of the head in its layer, from 0"),
        field("token_id", pa.int32(), "key that was left out", unit="id"),
        field("text", pa.string(), "printable text of the token; lossy"),
        field("rows", pa.int32(), "rows whose best key it is, among all rows and keys"),
        field("share", pa.float64(), "the same as a share of all rows"),
    ]
)


def kin(count: int) -> pa.Schema:
    """Schema of a `kin` part.

    Args:
        count: kin of a token.

    Returns:
        The schema, with lists of exactly that many entries.
    """
    shape = f"[{count}]"
    return pa.schema(
        [
            field("token_id", pa.int32(), "token", unit="id"),
            field(
                "kin_ids",
                pa.list_(pa.int32(), count),
                "other tokens with the largest cosine similarity of normalised states, nearest first",
                unit="id",
                shape=shape,
            ),
            field("cosines", pa.list_(pa.float32(), count), "their cosine similarities", shape=shape),
        ]
    )
