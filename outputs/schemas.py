"""Arrow schemas of every table a job leaves; each field says its unit and shape in its metadata."""

from __future__ import annotations

import pyarrow as pa

DATA_VERSION = 1
"""Version of what the tables mean; a change of it gives every run a new id."""


def _field(
    name: str, kind: pa.DataType, what: str, *, unit: str = "", shape: str = "scalar", nullable: bool = False
) -> pa.Field:
    metadata = {"description": what, "unit": unit, "shape": shape}
    return pa.field(name, kind, nullable=nullable, metadata={k: v for k, v in metadata.items() if v})


TOKENS = pa.schema(
    [
        _field("token_id", pa.int32(), "row of the embedding matrix", unit="id"),
        _field("text", pa.string(), "printable text of the token; lossy"),
        _field("bytes", pa.binary(), "exact bytes of the token; null where no tokenizer names the id", nullable=True),
        _field("is_special", pa.bool_(), "whether the token is a control token, such as <|endoftext|>"),
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
            _field("token_id", pa.int32(), "query token", unit="id"),
            _field(
                "key_ids",
                pa.list_(pa.int32(), k),
                "keys with the highest scores, best first; equal scores by lower id",
                unit="id",
                shape=shape,
            ),
            _field(
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
        _field("token_id", pa.int32(), "query token, and the key it is compared with", unit="id"),
        _field("self_score", pa.float32(), "score of the token to itself", unit="nats"),
        _field("self_rank", pa.int32(), "1 + number of keys with a higher score than the token itself", unit="rank"),
        _field("row_mean", pa.float32(), "mean score over all keys", unit="nats"),
        _field("row_std", pa.float32(), "standard deviation of the score over all keys (divisor V)", unit="nats"),
        _field("self_z", pa.float32(), "(self_score - row_mean) / row_std; null where row_std is 0", nullable=True),
        _field(
            "best_other_id",
            pa.int32(),
            "key with the highest score but the token itself; null in a vocabulary of one",
            unit="id",
            nullable=True,
        ),
        _field("best_other_score", pa.float32(), "score of that key", unit="nats", nullable=True),
        _field("self_gap", pa.float32(), "best_other_score - self_score", unit="nats", nullable=True),
    ]
)

SELF_WITH_KIN = pa.schema(
    [
        *SELF,
        _field(
            "kin_z", pa.float32(), "mean over the token's kin u of (score of u - row_mean) / row_std", nullable=True
        ),
        _field("suppression_index", pa.float32(), "kin_z - self_z: above 0 where kin are preferred", nullable=True),
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
            _field("token_id", pa.int32(), "token", unit="id"),
            _field(
                "kin_ids",
                pa.list_(pa.int32(), count),
                "other tokens with the largest cosine similarity of normalised states, nearest first",
                unit="id",
                shape=shape,
            ),
            _field("cosines", pa.list_(pa.float32(), count), "their cosine similarities", shape=shape),
        ]
    )


_PLACE = [
    _field("layer", pa.int32(), "layer of the head, from 0"),
    _field("head", pa.int32(), "place of the head in its layer, from 0"),
]


def _number(name: str, what: str, unit: str = "") -> pa.Field:
    return _field(name, pa.float64(), what, unit=unit, nullable=True)


def _against_null(name: str, what: str, unit: str = "") -> list[pa.Field]:
    return [
        _number(name, what, unit),
        _number(f"{name}_null_mean", "its mean over random heads with the same singular values", unit),
        _number(f"{name}_null_std", "its standard deviation over them", unit),
        _number(f"{name}_null_z", "(own - mean) / std; null where random heads do not differ"),
    ]


HEADS = pa.schema(
    [
        *_PLACE,
        _number("self_rank_mean", "mean over tokens of self_rank", "rank"),
        _number("self_rank_median", "median over tokens of self_rank", "rank"),
        _number("self_top1_share", "share of tokens that are their own best key"),
        _number("self_top10_share", "share of tokens among their own 10 best keys"),
        _number("self_top1024_share", "share of tokens among their own 1024 best keys"),
        _number("self_mrr", "mean over tokens of 1 / self_rank"),
        _number("self_z_mean", "mean over tokens of self_z"),
        _number("kin_z_mean", "mean over tokens of kin_z"),
        _number("suppression_index_mean", "mean over tokens of kin_z - self_z"),
        _number("suppression_index_low", "lower end of its 95% bootstrap interval over tokens"),
        _number("suppression_index_high", "upper end of that interval"),
        _number("suppression_index_positive_share", "share of tokens with a suppression index above 0"),
        *_against_null("positive_self_energy", "mean over tokens of the positive part of their bilinear self score"),
        *_against_null("negative_self_energy", "mean over tokens of the negative part of their bilinear self score"),
        *_against_null("n_negative_top_h", "negatives among the H eigenvalues of W_sym largest by magnitude"),
        _number("norm", "Frobenius norm of W'"),
        _number("sym_norm", "Frobenius norm of its symmetric part"),
        _number("skew_norm", "Frobenius norm of its skew-symmetric part"),
        _number("max_singular_value_sym", "largest singular value of the symmetric part"),
        _number("max_singular_value_skew", "largest singular value of the skew-symmetric part"),
    ]
)

SPECTRUM = pa.schema(
    [
        *_PLACE,
        _field("index", pa.int32(), "place in the descending order, from 0 to 2H - 1"),
        _field("eigenvalue", pa.float64(), "eigenvalue of the symmetric part of W'"),
        _number("singular_value", "singular value of W'; null past the H-th"),
        _number("sym_singular_value", "singular value of the symmetric part"),
        _number("skew_singular_value", "singular value of the skew-symmetric part"),
    ]
)
