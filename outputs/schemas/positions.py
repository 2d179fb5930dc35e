"""Arrow schemas of what a positions run leaves."""

from __future__ import annotations

import pyarrow as pa

from qkatlas.outputs.schemas.field import field
from qkatlas.outputs.schemas.head_scan import place_of_head


def _number(name: str, what: str, *, unit: str = "", nullable: bool = False) -> pa.Field:
    return field(name, pa.float64(), what, unit=unit, nullable=nullable)


def _errors(name: str, what: str, *, nullable: bool = False) -> list[pa.Field]:
    return [
        _number(f"tv_{name}", f"median total variation between real attention and {what}", nullable=nullable),
        _number(f"tv_{name}_p90", "its 90th percentile over windows and destinations", nullable=nullable),
        _number(
            f"kl_{name}", f"mean Kullback-Leibler divergence of real attention from {what}", unit="nats",
            nullable=nullable,
        ),
    ]  # fmt: skip


POSITIONS = pa.schema(
    [
        *place_of_head(),
        field("kind", pa.string(), "learned or rotary positions"),
        field(
            "source", pa.string(),
            "where mean queries and keys come from: weights (exact), text (held-out windows left out), or prefix",
        ),
        _number("width", "positions that the kernel is spread over: 1 / sum p^2, BOS left out", unit="positions"),
        _number("mean_offset", "mean offset under the kernel", unit="positions"),
        _number("half_offset", "first offset by which half of the share is reached", unit="positions"),
        _number("self_share", "p(0), the share of the query's own position"),
        _number("previous_share", "p(1), that of the position before"),
        _number("local_share", "p(0) + ... + p(7)"),
        _number(
            "decay_length", "-1 / slope of the line of ln p over the offset, weighted by p; null if it does not fall",
            unit="positions", nullable=True,
        ),
        _number("decay_r2", "share of the weighted variance of ln p on that line", nullable=True),
        _number(
            "translation_invariance",
            "1 - mean total variation between the kernels at T/4, T/2, 3T/4 and T - 1 on their common offsets; null "
            "under rotary positions, where it is 1 by construction",
            nullable=True,
        ),
        _number(
            "destination_dependence",
            "mean over tokens of the total variation between the kernel of the token's own query and that of the mean "
            "query",
        ),
        _number("destination_dependence_p90", "its 90th percentile over tokens"),
        field(
            "deviant_tokens", pa.list_(pa.field("element", pa.int32())), "the 5 tokens of the largest", unit="id",
            shape="[5]",
        ),
        _number("content_share", "Var c / (Var c + Var kappa) within a query, over the kernel and the keys"),
        _number("content_std", "standard deviation of c over the same", unit="nats"),
        _number("denominator_mean", "mean of sum p f, from a quarter of the window on"),
        _number("denominator_cv_between", "its coefficient of variation over windows, at one destination"),
        _number("denominator_cv_within", "the same over the destinations of a window"),
        _number("denominator_cv_model", "that of independent keys: sd(f) / mean(f) sqrt(sum p^2)"),
        _number("bos_share", "mean real attention on BOS, which all else leaves out"),
        _number("real_width", "median of 1 / sum p^2 of real attention", unit="positions"),
        _number(
            "equal_share", "mean real attention on earlier keys of the query's own token; null where none comes twice",
            nullable=True,
        ),
        *_errors(
            "factorised",
            "p f / sum p f of the destination's own query; null where both are equal by construction: later layers of "
            "learned positions",
            nullable=True,
        ),
        *_errors("fixed", "the same with the one query that stands for all"),
        *_errors("denominator", "that with sum p f replaced by its mean over other windows"),
        *_errors("position", "p alone, of the query that stands for all"),
        *_errors("content", "f / sum f alone, of the destination's own query"),
        *_errors("uniform", "all keys alike, beside which the other errors are to be read"),
        _number(
            "reliability",
            "1 - total variation between the kernels of the two halves that means are taken from; 1 where these are "
            "exact",
        ),
        field(
            "class", pa.string(),
            "previous, detokenisation, duplicate, positional, contextual, sink or none: the first that holds",
        ),
        _number("class_margin", "by how much it holds, as a share of the nearest bound; below 0 for none"),
    ]
)  # fmt: skip

KERNELS = pa.schema(
    [
        field("offset", pa.int32(), "positions from the key to the query, which stands at T - 1", unit="positions"),
        _number("score", "kappa, the positional part of the score", unit="nats"),
        _number("share", "share of attention if every key were the mean, BOS left out"),
        _number("low", "the lower share of the two halves that means are taken from"),
        _number("high", "the higher of both"),
    ]
)

FREQUENCIES = pa.schema(
    [
        *place_of_head(),
        field("pair", pa.int32(), "pair of numbers that is turned together; the last may be what is not turned"),
        _number("omega", "radians that a position turns it by; 0 for what is not turned", unit="radians"),
        _number("amplitude", "of its wave: kappa(d) = sum amplitude cos(omega d + phase)", unit="nats"),
        _number("phase", "of its wave", unit="radians"),
        _number("share", "its share of the sum of amplitudes"),
    ]
)

DENOMINATORS = pa.schema(
    [
        *place_of_head(),
        field("window", pa.int32(), "held-out window, from 0"),
        field("position", pa.int32(), "where the destination stands", unit="position"),
        _number("denominator", "sum p f of the query that stands for all"),
    ]
)

CONTENT = pa.schema(
    [
        *place_of_head(),
        field("token_id", pa.int32(), "token", unit="id"),
        _number(
            "ln_f",
            "logarithm of its content factor under the query that stands for all, at T - 1; a mean over its "
            "occurrences where the source is text",
            unit="nats",
        ),
    ]
)
