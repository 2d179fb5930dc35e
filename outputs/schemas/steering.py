"""Arrow schemas of what a steering run leaves."""

from __future__ import annotations

import pyarrow as pa

from qkatlas.outputs.schemas.field import field


def _number(name: str, what: str, unit: str = "") -> pa.Field:
    return field(name, pa.float64(), what, unit=unit, nullable=True)


_POINT = [
    field("point", pa.int32(), "place in the grid, from 0; partition of the tables `steered` and `in_model`"),
    field("method", pa.string(), "unsteered, eigen, control, singular or gradient"),
    _number("alpha", "eigen, control: factor on the negative eigenvalues of W_sym, or the alpha whose dose it has"),
    field("draw", pa.int32(), "control: which random choice of eigenvalues, from 0", nullable=True),
    field("rank", pa.int32(), "singular: how many of the largest singular values are scaled", nullable=True),
    _number("scale", "singular: factor on them"),
    _number(
        "step",
        "gradient: length of the step relative to the moved weights; above 0 raises the self score",
    ),
]

STEERING = pa.schema(
    [
        *_POINT,
        _number("dose", "sum of the singular values of the change of W', without what --skew drop and top leave out"),
        _number("self_rank_mean", "mean over tokens of self_rank", "rank"),
        _number("self_rank_median", "median over tokens of self_rank", "rank"),
        _number("self_mrr", "mean over tokens of 1 / self_rank"),
        _number("self_top1_share", "share of tokens that are their own best key"),
        _number("self_top10_share", "share of tokens among their own 10 best keys"),
        _number("self_top128_share", "share of tokens among their own 128 best keys"),
        _number("self_top1024_share", "share of tokens among their own 1024 best keys"),
        _number("self_z_mean", "mean over tokens of (self_score - row mean) / row std"),
        _number("kin_z_mean", "mean over tokens of the mean over kin of (score - row mean) / row std"),
        _number("overlap_at_k", "mean over tokens of the share of the k best keys that are among the unsteered k best"),
        _number("spearman", "mean over the sampled rows of the rank correlation with the unsteered row, all keys"),
        _number("spearman_std", "its standard deviation over those rows (divisor n)"),
        field("spearman_rows", pa.int32(), "sampled rows; which ones is in samples.parquet"),
        _number(
            "category_precision_at_k",
            "mean over category tokens of the share of the k best keys but the token itself that are of its category",
        ),
        field("category_tokens", pa.int32(), "tokens in that mean; which ones is in samples.parquet"),
    ]
)

STEERED = pa.schema(
    [
        field("token_id", pa.int32(), "query token", unit="id"),
        field("self_score", pa.float32(), "steered score of the token to itself", unit="nats"),
        field("self_rank", pa.int32(), "1 + number of keys with a higher score than the token itself", unit="rank"),
        field("self_z", pa.float32(), "(self_score - row mean) / row std; null where that is 0", nullable=True),
        field("kin_z", pa.float32(), "mean over the token's kin of (score - row mean) / row std", nullable=True),
        field("overlap", pa.float32(), "share of its k best keys that are among the unsteered k best"),
    ]
)

SAMPLES = pa.schema(
    [
        field("sample", pa.string(), "spearman or category"),
        field("token_id", pa.int32(), "token of the sample", unit="id"),
        field("category", pa.string(), "its category, in the sample of that name", nullable=True),
    ]
)

HEATMAP = pa.schema(
    [
        field("condition", pa.string(), "base, sym (W_sym with biases), skew (W_skew, no biases), or alpha=..."),
        _number("alpha", "factor on the negative eigenvalues; null for base, sym and skew"),
        field("query_id", pa.int32(), "query token", unit="id"),
        field("key_id", pa.int32(), "key token", unit="id"),
        field("score", pa.float32(), "score of the pair under the condition", unit="nats"),
    ]
)

_MEASURED = [
    ("identical_mass", "attention on the query's own token, at its position and before it", ""),
    ("category_mass", "attention on other tokens of the query's category before it", ""),
    ("bos_mass", "attention on BOS", ""),
    ("loss", "next-token loss over all positions but the last", "nats"),
]

IN_MODEL_PROMPTS = pa.schema(
    [
        field("prompt", pa.int32(), "prompt of category words, from 0"),
        *(field(name, pa.float64(), f"mean over positions of the {what}", unit=unit) for name, what, unit in _MEASURED),
    ]
)

IN_MODEL = pa.schema(
    [
        *_POINT,
        *(field(name, pa.float64(), f"mean over prompts of the {what}", unit=unit) for name, what, unit in _MEASURED),
        field("loss_delta", pa.float64(), "mean over prompts of the loss minus the unsteered head's", unit="nats"),
        field("loss_delta_std", pa.float64(), "its standard deviation over prompts (divisor n)", unit="nats"),
        field("n_prompts", pa.int32(), "prompts"),
    ]
)
