"""Arrow schemas of what a features run leaves."""

from __future__ import annotations

import pyarrow as pa

from qkatlas.outputs.schemas.field import field
from qkatlas.outputs.schemas.head_scan import place_of_head


def _number(name: str, what: str, *, unit: str = "", nullable: bool = False) -> pa.Field:
    return field(name, pa.float64(), what, unit=unit, nullable=nullable)


def _place() -> list[pa.Field]:
    return [
        field("layer", pa.int32(), "layer whose heads the dictionary is of: that writes z, or reads the residual"),
        field("reads", pa.string(), "what the dictionary reads: z or residual"),
    ]


_FEATURE = field("feature", pa.int32(), "feature, its row in W_dec", unit="id")

DICTIONARIES = pa.schema(
    [
        *_place(),
        field("architecture", pa.string(), "standard, topk, jumprelu or gated"),
        field("d_in", pa.int32(), "width of what it reads"),
        field("d_sae", pa.int32(), "its features"),
        field("k", pa.int32(), "features that topk keeps at a position; null for others", nullable=True),
        field("normalise", pa.string(), "how activations are normalised before they are encoded"),
        field("weights_sha256", pa.string(), "hash of its tensors"),
        field("convention", pa.string(), "how activations are taken: folded, as TransformerLens loads models, or raw"),
        field("asked", pa.string(), "the convention that was asked for"),
        field("conventions_differ", pa.bool_(), "whether both are different activations of this model"),
        _number("fvu", "share of the variance of activations that is left unexplained, BOS left out"),
        _number("fvu_folded", "the same by the convention folded"),
        _number("fvu_raw", "the same by the convention raw"),
        field("calibration_positions", pa.int32(), "positions that these are measured at"),
        field("positions", pa.int32(), "positions of text that features are measured at, BOS left out"),
        _number("l0", "features that fire at a position, mean"),
        _number("silent_share", "share of features that fire nowhere on the text"),
    ]
)


def features(kept: int, n_heads: int) -> pa.Schema:
    """Schema of a `features` part.

    Args:
        kept: tokens of either end of a feature's logits.
        n_heads: heads of a layer.
    """

    def tokens(name: str, what: str) -> list[pa.Field]:
        shape = f"[{kept}]"
        return [
            field(f"{name}_ids", pa.list_(pa.int32(), kept), f"tokens {what}", unit="id", shape=shape),
            field(
                f"{name}_values", pa.list_(pa.float32(), kept),
                "what one unit of activation adds to their logits, up to the final norm's scale", shape=shape,
            ),
        ]  # fmt: skip

    def heads(name: str, what: str) -> pa.Field:
        return field(name, pa.list_(pa.float32(), n_heads), what, shape=f"[{n_heads}]", nullable=True)

    return pa.schema(
        [
            *_place(),
            _FEATURE,
            _number("density", "share of positions of the text at which it fires, BOS left out"),
            _number("density_trained", "the same in training, where the dictionary says so", nullable=True),
            _number("activation_mean", "mean activation where it fires", nullable=True),
            _number("activation_max", "largest activation on the text"),
            _number("decoder_norm", "length of its decoder"),
            field("head_top", pa.int32(), "head with the largest share of its decoder", nullable=True),
            _number("head_share_top", "that share: norm in the head's slice over the sum of norms", nullable=True),
            _number("head_entropy", "entropy of its shares of heads", unit="nats", nullable=True),
            _number("heads_effective", "exp of that entropy", unit="heads", nullable=True),
            field("fve_top_head", pa.int32(), "head with the largest fve over all positions", nullable=True),
            _number("fve_top", "that fve", nullable=True),
            *tokens("logit_top", "that it promotes most, best first"),
            *tokens("logit_bottom", "that it suppresses most, lowest first"),
            _number(
                "copies_source",
                "share of its strongest firings whose strongest source is a token that it promotes; null without any",
                nullable=True,
            ),
            _number(
                "copies_source_null", "the same with the tokens that another feature promotes, the next one",
                nullable=True,
            ),
            heads("head_shares", "share of each head in its decoder"),
            heads("head_fve", "each head's share of the covariance of its pre-activation, over all positions"),
            heads("head_fve_active", "the same where it fires; null of fewer than two positions"),
            heads("head_r2", "squared correlation of each head's part with its pre-activation"),
        ]
    )  # fmt: skip


CONTEXTS = pa.schema(
    [
        *_place(),
        _FEATURE,
        field("rank", pa.int32(), "place among its firings, the strongest is 1", unit="rank"),
        field("window", pa.int32(), "window of text, from 0"),
        field("position", pa.int32(), "where it fires in the window", unit="position"),
        field("token_id", pa.int32(), "token there", unit="id"),
        _number("activation", "its activation"),
        field("source_position", pa.int32(), "strongest source: where most of its DFA comes from; null of the residual",
              nullable=True),
        field("source_token_id", pa.int32(), "token there", unit="id", nullable=True),
        field("source_head", pa.int32(), "head that adds most there", nullable=True),
        _number("source_share", "share of the positive DFA that comes from there", nullable=True),
    ]
)  # fmt: skip

TEXTS = pa.schema(
    [
        field("window", pa.int32(), "window of text, from 0"),
        field("position", pa.int32(), "position in it, the first is BOS", unit="position"),
        field("token_id", pa.int32(), "token", unit="id"),
    ]
)

DFA = pa.schema(
    [
        field("layer", pa.int32(), "layer of the dictionary"),
        field("head", pa.int32(), "head that most of the DFA from such sources goes through; null without any",
              nullable=True),
        _FEATURE,
        field("source", pa.string(), "relation of source to destination: bos, offset, same_token, induction, prefix"),
        field("value", pa.int32(), "of offset: where its range begins; of prefix: tokens that agree; null of others",
              nullable=True),
        _number("share", "share of the positive DFA of its strongest firings that comes from such sources, mean"),
        _number("chance", "share of the positions up to the destination that are such, mean"),
        _number("best_share", "share of these firings whose strongest source is such"),
        field("firings", pa.int32(), "firings that this is taken over"),
    ]
)  # fmt: skip

ATTRIBUTION = pa.schema(
    [
        *place_of_head(),
        field("rank", pa.int32(), "place of the feature by its share in the head, the largest is 1", unit="rank"),
        _FEATURE,
        _number("share", "|W_dec in the head's slice| over the sum of that over heads"),
        _number("fve", "share of the covariance of its pre-activation; may be negative or over 1", nullable=True),
        _number("fve_active", "the same where the feature fires", nullable=True),
        _number("r2", "squared correlation of the head's part with the pre-activation", nullable=True),
    ]
)


def _view(name: str, what: str) -> list[pa.Field]:
    return [
        _number(f"{name}_similarity", f"mean cosine of pairs of them by {what}", nullable=True),
        _number(f"{name}_null_mean", "the same of random features of equal density, mean over draws", nullable=True),
        _number(f"{name}_null_high", "its 99th percentile over draws", nullable=True),
        _number(f"{name}_z", "standard deviations from the null's mean", nullable=True),
    ]


HEADS = pa.schema(
    [
        *place_of_head(),
        field(
            "top_features",
            pa.list_(pa.field("element", pa.int32())),
            "its features of the largest shares, best first",
            unit="id",
        ),
        _number("top10_share", "mean share of the head in these features"),
        _number("top10_entropy", "mean entropy of their shares of heads", unit="nats"),
        _number("top10_density", "mean density of theirs"),
        _number("share_mean", "mean share of the head over all features"),
        *_view("logit", "what they add to logits"),
        *_view("source", "their source relations less chance"),
        *_view("encoder", "their encoders"),
        field("views_passed", pa.int32(), "views that are over the null's 99th percentile"),
        field("monosemantic_candidate", pa.bool_(), "whether two of the three are"),
    ]
)

KINDS = ("feature_to_token", "token_to_feature", "feature_to_feature")
"""Kinds of rows of `qk`: from what queries to what keys."""


def qk(kept: int) -> pa.Schema:
    """Schema of a `qk` part.

    Args:
        kept: keys kept of a row.
    """
    shape = f"[{kept}]"
    return pa.schema(
        [
            *place_of_head(),
            field("kind", pa.string(), "feature_to_token, token_to_feature or feature_to_feature: query to key"),
            field("query_id", pa.int32(), "feature or token of the query", unit="id"),
            field("key_ids", pa.list_(pa.int32(), kept), "tokens or features of the highest scores, best first",
                  unit="id", shape=shape),
            field("scores", pa.list_(pa.float32(), kept),
                  "of a unit of each feature's activation, at the typical scale of the norms", unit="nats",
                  shape=shape),
        ]
    )  # fmt: skip


QK_HEADS = pa.schema(
    [
        *place_of_head(),
        _number("scale_query", "what the layer's norm, and the head's own, multiply queries by: median on the text"),
        _number("scale_key", "the same of keys"),
        field("pairs", pa.int32(), "pairs of the text that were taken apart"),
        _number("gap", "largest difference of a pair's parts together from its score", unit="nats"),
        _number("score_std", "standard deviation of these scores", unit="nats"),
        _number("features_r2", "squared correlation with the score of what features of both sides make", nullable=True),
        _number("bias_r2", "the same of all pairs with a bias and none with an error", nullable=True),
        _number("error_r2", "the same of all pairs with an error", nullable=True),
    ]
)
