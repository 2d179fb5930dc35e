"""Arrow schemas of what a head scan says of each head."""

from __future__ import annotations

from itertools import chain

import pyarrow as pa

from qkatlas.outputs.schemas.field import field

_PLACE = [
    field("layer", pa.int32(), "layer of the head, from 0"),
    field("head", pa.int32(), "place of the head in its layer, from 0"),
]


def _number(name: str, what: str, unit: str = "") -> pa.Field:
    return field(name, pa.float64(), what, unit=unit, nullable=True)


def _against_null(name: str, what: str, unit: str = "") -> list[pa.Field]:
    return [
        _number(name, what, unit),
        _number(f"{name}_null_mean", "its mean over random heads with the same singular values", unit),
        _number(f"{name}_null_std", "its standard deviation over them", unit),
        _number(f"{name}_null_z", "(own - mean) / std; null where random heads do not differ"),
    ]


def _behaviour(name: str, what: str) -> list[pa.Field]:
    return [_number(name, what), _number(f"{name}_base", "the same of attention that falls on keys at random")]


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
        _number("self_z_low", "lower end of its 95% interval over tokens"),
        _number("self_z_high", "upper end of that interval"),
        _number("kin_z_mean", "mean over tokens of kin_z"),
        _number("suppression_index_mean", "mean over tokens of kin_z - self_z"),
        _number("suppression_index_low", "lower end of its 95% bootstrap interval over tokens"),
        _number("suppression_index_high", "upper end of that interval"),
        _number("suppression_index_positive_share", "share of tokens with a suppression index above 0"),
        *_against_null("positive_self_energy", "mean over tokens of the positive part of their bilinear self score"),
        *_against_null("negative_self_energy", "mean over tokens of the negative part of their bilinear self score"),
        *_against_null("n_negative_top_h", "negatives among the H eigenvalues of W_sym largest by magnitude"),
        _number("semantic_category_score_mean", "mean over prompts of the Semantic Category Score", "nats"),
        _number("semantic_category_score_std", "its standard deviation over prompts (divisor P)", "nats"),
        _number(
            "fidelity",
            "Pearson correlation on prompts of attention scores from the run's token states with the real ones",
        ),
        _number("fidelity_mlp", "on prompts, for token states mlp"),
        _number("fidelity_mean", "on prompts, for token states mean"),
        _number("fidelity_bos", "on prompts, for token states bos"),
        _number(
            "row_fidelity",
            "the same within rows: scores less the mean of their row's, BOS left out as a key, at their true offsets",
        ),
        _number("row_fidelity_mlp", "within rows, for token states mlp"),
        _number("row_fidelity_mean", "within rows, for token states mean"),
        _number("row_fidelity_bos", "within rows, for token states bos"),
        _number("fidelity_offset_only", "within rows, with the mean of the run's states in place of every token's"),
        _number(
            "token_share",
            "share of the variance that offsets leave open which the run's states predict: (r^2 - r0^2) / (1 - r0^2)",
        ),
        _number(
            "attention_distance",
            "mean total variation between the attention that the run's states give to keys but BOS and the real one",
        ),
        _number("attention_distance_offset_only", "the same with their mean in place of every token's state"),
        _number("attention_distance_uniform", "the same for uniform attention"),
        *_behaviour("previous_token_score", "mean attention to the token before, in random text without repeats"),
        *_behaviour("duplicate_token_score", "mean attention to the token's earlier occurrence, in a repeated block"),
        *_behaviour("induction_score", "mean attention to the token after that occurrence, in a repeated block"),
        *chain.from_iterable(
            _behaviour(f"prefix_induction_score_{n}", f"the same after a repeat of {n} tokens between fresh tokens")
            for n in range(1, 5)
        ),
        *_behaviour("bos_share", "mean attention to BOS, in random text without repeats"),
        _number("norm", "Frobenius norm of W'"),
        _number("sym_norm", "Frobenius norm of its symmetric part"),
        _number("skew_norm", "Frobenius norm of its skew-symmetric part"),
        _number("max_singular_value_sym", "largest singular value of the symmetric part"),
        _number("max_singular_value_skew", "largest singular value of the skew-symmetric part"),
        field("hub_id", pa.int32(), "key that is the best of most rows, the lowest of equals", nullable=True),
        _number("hub_share", "share of rows whose best key it is"),
        _number("giant_share", "share of the layer's token states whose norm is over 3 times the median"),
        _number("random_cosine", "mean cosine of the layer's states of random pairs of tokens"),
        field("label", pa.string(), "what the head does by stated thresholds on these columns, or none"),
    ]
)

SPECTRUM_VALUES = ("eigenvalue", "singular_value", "sym_singular_value", "skew_singular_value")
"""Columns of a spectrum that hold its values."""

SPECTRUM = pa.schema(
    [
        *_PLACE,
        field("index", pa.int32(), "place in the descending order, from 0 to 2H - 1"),
        field("eigenvalue", pa.float64(), "eigenvalue of the symmetric part of W'"),
        _number("singular_value", "singular value of W'; null past the H-th"),
        _number("sym_singular_value", "singular value of the symmetric part"),
        _number("skew_singular_value", "singular value of the skew-symmetric part"),
    ]
)

PROMPT_SCORES = pa.schema(
    [
        field("prompt", pa.int32(), "number of the prompt, from 0"),
        *_PLACE,
        field("semantic_category_score", pa.float64(), "score of the head on the prompt", unit="nats"),
    ]
)
