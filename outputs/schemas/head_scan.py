"""Arrow schemas of what a head scan says of each head."""

from __future__ import annotations

from itertools import chain

import pyarrow as pa

from qkatlas.outputs.schemas.field import field


def place_of_head() -> list[pa.Field]:
    """The columns that say which head a row is about."""
    return [
        field("layer", pa.int32(), "layer of the head, from 0"),
        field("head", pa.int32(), "place of the head in its layer, from 0"),
    ]


def number(name: str, what: str, unit: str = "") -> pa.Field:
    """A column of numbers that some heads lack."""
    return field(name, pa.float64(), what, unit=unit, nullable=True)


def against_null(name: str, what: str, unit: str = "") -> list[pa.Field]:
    """A number of a head, and the same of random heads."""
    return [
        number(name, what, unit),
        number(f"{name}_null_mean", "its mean over random heads with the same singular values", unit),
        number(f"{name}_null_std", "its standard deviation over them", unit),
        number(f"{name}_null_z", "(own - mean) / std; null where random heads do not differ"),
    ]


def _behaviour(name: str, what: str) -> list[pa.Field]:
    return [number(name, what), number(f"{name}_base", "the same of attention that falls on keys at random")]


LABEL = field("label", pa.string(), "what the head does by stated thresholds on these columns, or none")

HEADS = pa.schema(
    [
        *place_of_head(),
        number("self_rank_mean", "mean over tokens of self_rank", "rank"),
        number("self_rank_median", "median over tokens of self_rank", "rank"),
        number("self_top1_share", "share of tokens that are their own best key"),
        number("self_top10_share", "share of tokens among their own 10 best keys"),
        number("self_top1024_share", "share of tokens among their own 1024 best keys"),
        number("self_mrr", "mean over tokens of 1 / self_rank"),
        number("self_z_mean", "mean over tokens of self_z"),
        number("self_z_low", "lower end of its 95% interval over tokens"),
        number("self_z_high", "upper end of that interval"),
        number("kin_z_mean", "mean over tokens of kin_z"),
        number("suppression_index_mean", "mean over tokens of kin_z - self_z"),
        number("suppression_index_low", "lower end of its 95% bootstrap interval over tokens"),
        number("suppression_index_high", "upper end of that interval"),
        number("suppression_index_positive_share", "share of tokens with a suppression index above 0"),
        *against_null("positive_self_energy", "mean over tokens of the positive part of their bilinear self score"),
        *against_null("negative_self_energy", "mean over tokens of the negative part of their bilinear self score"),
        *against_null("n_negative_top_h", "negatives among the H eigenvalues of W_sym largest by magnitude"),
        number("semantic_category_score_mean", "mean over prompts of the Semantic Category Score", "nats"),
        number("semantic_category_score_std", "its standard deviation over prompts (divisor P)", "nats"),
        number(
            "fidelity",
            "Pearson correlation on prompts of attention scores from the run's token states with the real ones",
        ),
        number("fidelity_mlp", "on prompts, for token states mlp"),
        number("fidelity_mean", "on prompts, for token states mean"),
        number("fidelity_bos", "on prompts, for token states bos"),
        number(
            "row_fidelity",
            "the same within rows: scores less the mean of their row's, BOS left out as a key, at their true offsets",
        ),
        number("row_fidelity_mlp", "within rows, for token states mlp"),
        number("row_fidelity_mean", "within rows, for token states mean"),
        number("row_fidelity_bos", "within rows, for token states bos"),
        number("fidelity_offset_only", "within rows, with the mean of the run's states in place of every token's"),
        number(
            "token_share",
            "share of the variance that offsets leave open which the run's states predict: (r^2 - r0^2) / (1 - r0^2)",
        ),
        number(
            "attention_distance",
            "mean total variation between the attention that the run's states give to keys but BOS and the real one",
        ),
        number("attention_distance_offset_only", "the same with their mean in place of every token's state"),
        number("attention_distance_uniform", "the same for uniform attention"),
        *_behaviour("previous_token_score", "mean attention to the token before, in random text without repeats"),
        *_behaviour("duplicate_token_score", "mean attention to the token's earlier occurrence, in a repeated block"),
        *_behaviour("induction_score", "mean attention to the token after that occurrence, in a repeated block"),
        *chain.from_iterable(
            _behaviour(f"prefix_induction_score_{n}", f"the same after a repeat of {n} tokens between fresh tokens")
            for n in range(1, 5)
        ),
        *_behaviour("bos_share", "mean attention to BOS, in random text without repeats"),
        number("norm", "Frobenius norm of W'"),
        number("sym_norm", "Frobenius norm of its symmetric part"),
        number("skew_norm", "Frobenius norm of its skew-symmetric part"),
        number("max_singular_value_sym", "largest singular value of the symmetric part"),
        number("max_singular_value_skew", "largest singular value of the skew-symmetric part"),
        field("hub_id", pa.int32(), "key that is the best of most rows, the lowest of equals", nullable=True),
        number("hub_share", "share of rows whose best key it is"),
        number("giant_share", "share of the layer's token states whose norm is over 3 times the median"),
        number("random_cosine", "mean cosine of the layer's states of random pairs of tokens"),
        LABEL,
    ]
)
"""Of a scan of what heads attend to."""

SPECTRUM_VALUES = ("eigenvalue", "singular_value", "sym_singular_value", "skew_singular_value")
"""Columns of a spectrum that hold its values."""

SPECTRUM = pa.schema(
    [
        *place_of_head(),
        field("index", pa.int32(), "place in the descending order, from 0 to 2H - 1"),
        field("eigenvalue", pa.float64(), "eigenvalue of the symmetric part of W'"),
        number("singular_value", "singular value of W'; null past the H-th"),
        number("sym_singular_value", "singular value of the symmetric part"),
        number("skew_singular_value", "singular value of the skew-symmetric part"),
    ]
)

PROMPT_SCORES = pa.schema(
    [
        field("prompt", pa.int32(), "number of the prompt, from 0"),
        *place_of_head(),
        field("semantic_category_score", pa.float64(), "score of the head on the prompt", unit="nats"),
    ]
)
