"""Arrow schema of the prompts that a model was run on."""

from __future__ import annotations

import pyarrow as pa

from qkatlas.outputs.schemas.field import field


def prompts(length: int, *, spelled: bool = False) -> pa.Schema:
    """Schema of the prompts.

    Args:
        length: tokens of a prompt, BOS included.
        spelled: whether words may be several tokens.
    """
    shape = f"[{length}]"
    ends = [
        field(
            "word_ends",
            pa.list_(pa.bool_(), length),
            "whether a word ends at the token; only there where words may be several tokens",
            shape=shape,
        )
    ]
    return pa.schema(
        [
            field("prompt", pa.int32(), "number of the prompt, from 0"),
            field("token_ids", pa.list_(pa.int32(), length), "its tokens, BOS first", unit="id", shape=shape),
            field(
                "categories",
                pa.list_(pa.int32(), length),
                "category that each token was drawn from, from 0; BOS's means nothing",
                shape=shape,
            ),
            *(ends if spelled else []),
        ]
    )
