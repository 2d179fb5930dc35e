"""Arrow schemas of what a similarity run leaves."""

from __future__ import annotations

import pyarrow as pa

from qkatlas.outputs.schemas.field import field

_DIFFERENCE = "score of the pair minus the query's self score"


def _number(name: str, what: str) -> pa.Field:
    return field(name, pa.float64(), f"{what}; null in an empty bin", unit="nats", nullable=True)


SIMILARITY = pa.schema(
    [
        field("cosine_low", pa.float64(), "lower edge of the bin of cosine similarity; belongs to the bin"),
        field("cosine_high", pa.float64(), "upper edge; belongs to the next bin, or to the last"),
        field("count", pa.int64(), "ordered pairs (query, key) in the bin, self pairs included"),
        field("self_pairs", pa.int64(), "those of a token with itself, whose difference is 0"),
        _number("mean", f"mean of {_DIFFERENCE}"),
        _number("std", f"standard deviation of {_DIFFERENCE} (divisor count)"),
        _number("p25", f"lower quartile of {_DIFFERENCE}, to within quartile_error"),
        _number("p50", f"median of {_DIFFERENCE}, to within quartile_error"),
        _number("p75", f"upper quartile of {_DIFFERENCE}, to within quartile_error"),
        field(
            "quartile_error",
            pa.float64(),
            "largest error of the quartiles beside float32 rounding: half a score bin",
            unit="nats",
        ),
    ]
)

HISTOGRAM = pa.schema(
    [
        field("cosine_bin", pa.int32(), "row of similarity.parquet"),
        field("score_bin", pa.int32(), "bin of the difference"),
        field("difference", pa.float64(), f"{_DIFFERENCE}, at the centre of the score bin", unit="nats"),
        field("count", pa.int64(), "ordered pairs"),
    ]
)

SUBSET = pa.schema([field("token_id", pa.int32(), "token whose pairs were taken, most frequent first", unit="id")])
