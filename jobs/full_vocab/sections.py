"""The section of a report that shows one head's tokens: who attends to whom.

Shapes: V tokens, K keys that the run keeps of each.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from qkatlas.jobs.report.section import Section, Shown, columns, table_section
from qkatlas.outputs.runs.reader import list_matrix
from qkatlas.pipeline.text.vocabulary import printable

_START_WORDS = (" red", " cat", " Monday", "red", "cat", "Monday")
"""The report opens at the first of these that is a token."""


def head_tokens(shown: Shown) -> dict[str, Any]:
    """A head's tokens, without a map.

    Args:
        shown: a run with the tables `tokens`, `topk` and `self` of one head.

    Raises:
        ValueError: if a table is damaged.
    """
    tokens, top, own = (shown.table(name).sort_by("token_id") for name in ("tokens", "topk", "self"))
    texts = [printable(text.encode()) for text in tokens["text"].to_pylist()]
    keys_VK = list_matrix(top, "key_ids")
    kept = min(shown.neighbours, keys_VK.shape[1])
    if not np.array_equal(top["token_id"].to_numpy(), np.arange(len(texts))):
        raise ValueError(f"run {shown.run.folder.name} does not hold every token once; submit the same request again")
    pack = shown.pack
    return {
        "head": shown.head,
        "size": len(texts),
        "kept": kept,
        "stored": keys_VK.shape[1],
        "texts": pack.texts(texts),
        "special": np.flatnonzero(tokens["is_special"].to_numpy(zero_copy_only=False)).tolist()[:1000],
        "key_ids": pack.ids(keys_VK[:, :kept]),
        "scores": pack.array(list_matrix(top, "scores")[:, :kept].astype(np.float32)),
        "self_rank": pack.ids(own["self_rank"].to_numpy()),
        "self_score": pack.array(own["self_score"].to_numpy()),
        "self_z": pack.array(own["self_z"].to_numpy().astype(np.float32)),  # null is NaN here
        "map": None,
        "start": next((texts.index(word) for word in _START_WORDS if word in texts), None),
    }


TOKENS = Section(kind="tokens", place=10, needs=("tokens", "topk", "self"), build=head_tokens)

LEFT_OUT = table_section(
    "hubs", table="hubs", place=15, title="Keys that were left out",
    how="They are the best key of many rows, and the lists or the graph do without them, as --exclude-hubs asked. "
    "A token's own rank counts every key all the same.",
)  # fmt: skip

_WRITERS, _ENDS = 300, 6


def written(shown: Shown) -> dict[str, Any]:
    """What attending to tokens writes: those whose own logit it moves most, up or down.

    Args:
        shown: a run with the OV tables of one head.

    Raises:
        ValueError: if a table is damaged.
    """
    tokens, own, top, bottom = (
        shown.table(name).sort_by("token_id") for name in ("tokens", "ov_self", "ov_topk", "ov_bottomk")
    )
    texts = [printable(text.encode()) for text in tokens["text"].to_pylist()]
    z_V = np.abs(np.nan_to_num(own["self_z"].to_numpy().astype(np.float64)))
    chosen = np.sort(np.argsort(-z_V, kind="stable")[:_WRITERS])
    ends = [
        [", ".join(texts[key] for key in keys[:_ENDS]) for keys in list_matrix(of, "key_ids")[chosen]]
        for of in (top, bottom)
    ]
    table = pa.table(
        {
            "token": [texts[token] for token in chosen],
            "self_rank": own["self_rank"].take(chosen),
            "self_z": own["self_z"].take(chosen),
            "promoted": ends[0],
            "suppressed": ends[1],
        }
    )
    how = "Tokens whose own logit moves most when the head attends to them, and what else it promotes and suppresses."
    return {
        "title": "What the head writes", "how": how, "head": shown.head, "table": columns(table), "of": len(texts)
    }  # fmt: skip


SECTIONS = (
    TOKENS,
    Section(kind="written-tokens", place=12, needs=("tokens", "ov_self", "ov_topk", "ov_bottomk"), build=written),
    LEFT_OUT,
)
