"""The card of a published run: what the tables are, how they were made, and what is exact in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from qkatlas.outputs.runs.listing import Listed

_FIRST = ("heads", "topk", "self", "tokens")
"""Tables that a viewer opens first, where they are there."""


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """A table of the data set.

    Attributes:
        schema: of its files.
        rows: of all of them.
        files: pattern of their paths in the data set.
    """

    schema: pa.Schema
    rows: int
    files: str


def card(
    run: Listed, tables: Mapping[str, PublishedTable], *, versions: Mapping[str, str], weights_licence: str
) -> str:
    """The data set's README.md, whose head the Hugging Face hub and `datasets` read.

    Args:
        run: the run.
        tables: its tables by name; each is a configuration.
        versions: of the software that made it.
        weights_licence: of the model's weights, as the hub names it.
    """
    order = sorted(tables, key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name))
    model = (run.model or "unknown model").rstrip("/").rpartition("/")[2]
    title = " ".join(filter(None, ("QK Atlas:", model, run.head, run.job)))
    head = ["---", f"pretty_name: {_quoted(title)}", f"license: {_quoted(weights_licence)}",
            'tags: ["interpretability", "attention-heads", "qk-atlas"]', "configs:"]  # fmt: skip
    for number, name in enumerate(order):
        head += [f"- config_name: {_quoted(name)}", f"  data_files: {_quoted(tables[name].files)}"]
        head += ["  default: true"] if number == 0 else []
    settings = "".join(f"| {name} | `{_cell(json.dumps(value))}` |\n" for name, value in run.settings.items())
    made = ", ".join(f"{name} {version}" for name, version in versions.items())
    body = f"""
# {_cell(title)}

Tables of one run of QK Atlas, which scores every token of a model against every token through attention heads. A score
is the pre-softmax attention score of a query token and a key token (in nats, unless the settings say `bilinear`).

```python
import datasets
datasets.load_dataset("PATH_OR_NAME", {_quoted(order[0])}, split="train")
```

## How it was made

| | |
|---|---|
| model | {_cell(model)} |
| weights | SHA-256 `{run.weights_sha256}` |
| licence of the weights | {_cell(weights_licence)} |
| job | {run.job} |
| run id | `{run.run_id}` |
| finished | {run.date or "unknown"} |

| setting | value |
|---|---|
{settings}
Software: {_cell(made) or "unknown"}.

## What is exact

Given a head's float32 queries and keys, the order, the lists of best keys and the ranks are those of their float64 dot
products; equal scores stand by lower id. Token states are computed in float32; in late layers they are approximate by
definition, for they depend on the context (setting `states`).

## Tables
"""
    for name in order:
        table = tables[name]
        body += f"\n### {name}\n\n{table.rows} rows in `{table.files}`.\n\n| column | type | meaning |\n|---|---|---|\n"
        body += "".join(
            f"| `{field.name}` | {_cell(str(field.type))} | {_meaning(field)} |\n" for field in table.schema
        )
    citation = (
        "\n## Citation\n\nQK Atlas contributors: QK Atlas, software under the MIT licence. The tables follow from the "
        "weights, whose own licence and citation hold for them.\n"
    )
    return "\n".join([*head, "---"]) + "\n" + body + citation


def _meaning(field: pa.Field) -> str:
    said = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
    unit = f" ({said['unit']})" if said.get("unit") else ""
    return _cell(said.get("description", "")) + unit


def _quoted(text: str) -> str:
    """A text as YAML and JSON both write it."""
    return json.dumps(text)


def _cell(text: str) -> str:
    """A text in a cell of a table."""
    return " ".join(text.replace("|", "\\|").replace("`", "'").split())
