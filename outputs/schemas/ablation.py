"""Arrow schemas of what ablations leave."""

from __future__ import annotations

import pyarrow as pa

from qkatlas.outputs.schemas.field import field

_COMPONENT = [
    field("component", pa.string(), "embed, pos_embed, attn_0, mlp_0, mlp_0_residual, L0H3, ...; none = the baseline"),
    field("kind", pa.string(), "embed, pos_embed, attn, mlp, mlp_residual, head or none"),
    field("layer", pa.int32(), "layer of the component, from 0; null for embeddings and none", nullable=True),
    field("head", pa.int32(), "place of a single head in its layer, from 0; null for others", nullable=True),
]

_TARGET = [
    field("target_layer", pa.int32(), "layer of the head that is measured, from 0"),
    field("target_head", pa.int32(), "its place in the layer, from 0"),
]

_LOSS_DELTA = "next-token loss with the component ablated minus without; null where no loss was taken"

ABLATION = pa.schema(
    [
        *_COMPONENT,
        *_TARGET,
        field("score_mean", pa.float64(), "mean over prompts of the target's Semantic Category Score", unit="nats"),
        field("score_std", pa.float64(), "its standard deviation over prompts (divisor P)", unit="nats"),
        field("delta", pa.float64(), "score_mean minus that of none", unit="nats"),
        field("delta_low", pa.float64(),
              "lower end of its paired 95% bootstrap interval over prompts; null for one prompt",
              unit="nats", nullable=True),
        field("delta_high", pa.float64(), "upper end of that interval", unit="nats", nullable=True),
        field("n_prompts", pa.int32(), "prompts"),
        field("loss_delta", pa.float64(), _LOSS_DELTA, unit="nats per token", nullable=True),
    ]
)  # fmt: skip

LOSSES = pa.schema(
    [
        *_COMPONENT,
        field("loss", pa.float64(), "mean next-token loss with the component ablated", unit="nats per token"),
        field("loss_delta", pa.float64(), "loss minus that of none", unit="nats per token"),
        field("loss_delta_low", pa.float64(),
              "lower end of its paired 95% bootstrap interval over passages; null for one passage",
              unit="nats per token", nullable=True),
        field("loss_delta_high", pa.float64(), "upper end of that interval", unit="nats per token", nullable=True),
        field("n_passages", pa.int32(), "prompts, or windows of the text"),
        field("n_tokens", pa.int64(), "tokens that were predicted"),
    ]
)  # fmt: skip

PROMPT_SCORES = pa.schema(
    [
        field("component", pa.string(), "the ablated component"),
        field("prompt", pa.int32(), "number of the prompt, from 0"),
        *_TARGET,
        field("score", pa.float64(), "Semantic Category Score of the target on the prompt", unit="nats"),
    ]
)

PASSAGE_LOSSES = pa.schema(
    [
        field("component", pa.string(), "the ablated component"),
        field("passage", pa.int32(), "number of the prompt or of the text's window, from 0"),
        field("loss", pa.float64(), "sum over the predicted tokens of the next-token loss", unit="nats"),
        field("n_tokens", pa.int32(), "tokens that were predicted"),
    ]
)


def output_sums(d_model: int, heads_width: int | None = None) -> pa.Schema:
    """Schema of the summed outputs that mean ablation takes its means from.

    Args:
        d_model: width of an output.
        heads_width: of all heads of a layer together, in front of W_O; None = the same.
    """
    same = heads_width in (None, d_model)
    return pa.schema(
        [
            field("kind", pa.string(), "embed, pos_embed, attn, mlp; head = all heads of a layer, in front of W_O"),
            field("layer", pa.int32(), "layer, from 0; null for embeddings", nullable=True),
            field(
                "sum",
                pa.list_(pa.float64(), d_model) if same else pa.list_(pa.float64()),
                "sum of the output over passages and positions, with nothing ablated",
                shape=f"[{d_model}]" if same else f"[{d_model}], of heads [{heads_width}]",
            ),
            field("count", pa.int64(), "passages times positions"),
        ]
    )
