"""Arrow schemas of what heads write: the OV circuit over the vocabulary, with the columns of `topk` and `self`."""

from __future__ import annotations

import pyarrow as pa

from qkatlas.outputs.schemas.field import field
from qkatlas.outputs.schemas.head_scan import HEADS, LABEL, against_null, number, place_of_head

UNIT = "logits"
"""Of what attending to a token adds to a logit, up to the scale of the final norm."""


def topk(k: int, *, lowest: bool = False) -> pa.Schema:
    """Schema of an `ov_topk` or `ov_bottomk` part.

    Args:
        k: tokens kept for each attended token.
        lowest: whether it is the latter.

    Returns:
        The schema, with lists of exactly k entries.
    """
    shape = f"[{k}]"
    which = "lowest scores, lowest first" if lowest else "highest scores, best first"
    return pa.schema(
        [
            field("token_id", pa.int32(), "attended token", unit="id"),
            field(
                "key_ids",
                pa.list_(pa.int32(), k),
                f"tokens whose logits attending to it moves by the {which}; equal scores by lower id",
                unit="id",
                shape=shape,
            ),
            field(
                "scores",
                pa.list_(pa.float32(), k),
                "what is added to those logits, up to the final norm's scale",
                unit=UNIT,
                shape=shape,
            ),
        ]
    )


SELF = pa.schema(
    [
        field("token_id", pa.int32(), "attended token, and the written token it is compared with", unit="id"),
        field("self_score", pa.float32(), "what attending to the token adds to its own logit", unit=UNIT),
        field("self_rank", pa.int32(), "1 + number of tokens whose logits gain more; 1 = it is copied", unit="rank"),
        field("row_mean", pa.float32(), "mean over all tokens of what is added", unit=UNIT),
        field("row_std", pa.float32(), "standard deviation over all tokens (divisor V)", unit=UNIT),
        field("self_z", pa.float32(), "(self_score - row_mean) / row_std; null where row_std is 0", nullable=True),
        field(
            "best_other_id",
            pa.int32(),
            "token whose logit gains most but the token itself; null in a vocabulary of one",
            unit="id",
            nullable=True,
        ),
        field("best_other_score", pa.float32(), "what is added to its logit", unit=UNIT, nullable=True),
        field("self_gap", pa.float32(), "best_other_score - self_score", unit=UNIT, nullable=True),
    ]
)

SELF_WITH_KIN = pa.schema(
    [
        *SELF,
        field("kin_z", pa.float32(), "mean over the token's kin u of (score of u - row_mean) / row_std", nullable=True),
        field("suppression_index", pa.float32(), "kin_z - self_z: above 0 where kin are promoted more", nullable=True),
    ]
)

HEAD_COLUMNS = (
    number("ov_self_rank_mean", "mean over attended tokens of their own rank among what is promoted", "rank"),
    number("ov_self_rank_median", "its median over tokens", "rank"),
    number("ov_self_top1_share", "share of tokens that are promoted most when they are attended"),
    number("ov_self_top10_share", "share of tokens among the 10 that attending to them promotes most"),
    number("ov_self_lowest10_share", "share of tokens among the 10 that attending to them suppresses most"),
    number("ov_self_z_mean", "mean over tokens of self_z of ov_self"),
    number("ov_kin_z_mean", "mean over tokens of kin_z of ov_self"),
    number("ov_hub_share", "share of attended tokens that promote ov_hub_id most"),
    field("ov_hub_id", pa.int32(), "token that is promoted most by most tokens, the lowest of equals", nullable=True),
    *against_null(
        "copying_score", "sum of the real parts of the OV form's eigenvalues over the sum of their magnitudes"
    ),
    *against_null("ov_self_energy", "mean over tokens of what attending to them adds to their own logit, biases aside"),
    number(
        "copy_suppression",
        "share of query tokens with a look-alike among their 10 best keys that is itself among the 10 tokens which "
        "attending to it suppresses most",
    ),
)
"""Columns of `heads` about what heads write."""

HEADS_THAT_WRITE = pa.schema([*list(HEADS)[:-1], *HEAD_COLUMNS, LABEL])
"""Of a scan of what heads attend to and write."""

SPECTRUM = pa.schema(
    [
        *place_of_head(),
        field("index", pa.int32(), "place in the descending order of real parts, from 0 to H - 1"),
        field("eigenvalue", pa.float64(), "real part of an eigenvalue of the OV form on the vocabulary, divided by V"),
        field("eigenvalue_imaginary", pa.float64(), "its imaginary part"),
        field("singular_value", pa.float64(), "singular value of W_V W_O with all gains folded in, descending"),
    ]
)
"""H rows a head."""
