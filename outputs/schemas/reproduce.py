"""Arrow schema of what a reproduction leaves."""

from __future__ import annotations

import pyarrow as pa

from qkatlas.outputs.schemas.field import field

REPRODUCTION = pa.schema(
    [
        field("figure", pa.string(), "name of the published figure"),
        field("what", pa.string(), "what the figure says"),
        field("source", pa.string(), "where it was published"),
        field("variant", pa.string(),
              "as defined (this project's definitions) or as published (with the authors' slips and forms)"),
        field("published", pa.float64(), "the published number; null for a claim without one", nullable=True),
        field("published_text", pa.string(), "the same as it was published"),
        field("measured", pa.float64(),
              "the number measured on this model; null where it is not comparable, inf for a crossing that never comes",
              nullable=True),
        field("measured_text", pa.string(), "the same for a reader, with what belongs to it"),
        field("unit", pa.string(), "unit of both numbers"),
        field("tolerance", pa.string(), "measured numbers that count as reproduced"),
        field("why", pa.string(), "reason for this tolerance"),
        field("verdict", pa.string(), "reproduced, differs or not comparable"),
        field("note", pa.string(), "why it is not comparable, or what else a reader should know"),
    ]
)  # fmt: skip

NOTEBOOK = pa.schema(
    [
        field("layer", pa.int32(), "layer of the head, from 0"),
        field("head", pa.int32(), "place of the head in its layer, from 0"),
        field("masked_attention", pa.float64(),
              "mean over prompts of the mean attention on keys of the query's category; null without such pairs",
              nullable=True),
        field("masked_attention_printed", pa.float64(),
              "the same on the one prompt that is published with its token ids; null under another vocabulary",
              nullable=True),
    ]
)  # fmt: skip
