"""Prints docs/tables.md, the description of every table and column, from the schemas themselves."""

from __future__ import annotations

import pyarrow as pa

from qkatlas.outputs.schemas import ablation as schemas_ablation
from qkatlas.outputs.schemas import communities as schemas_graph
from qkatlas.outputs.schemas import head_scan as schemas_heads
from qkatlas.outputs.schemas import prompts as schemas_prompts
from qkatlas.outputs.schemas import reproduce as schemas_reproduction
from qkatlas.outputs.schemas import scores as schemas
from qkatlas.outputs.schemas import similarity as schemas_similarity
from qkatlas.outputs.schemas import steering as schemas_steering

TABLES = (
    ("every job but communities", "tokens.parquet", "one row a token", schemas.TOKENS),
    (
        "full-vocab, head-scan, steering",
        "topk/layer=L/head=N/part-*.parquet",
        "one row a query token",
        schemas.topk(10),
    ),
    (
        "full-vocab (without kin_z and suppression_index), head-scan, steering",
        "self/layer=L/head=N/part-*.parquet",
        "one row a token",
        schemas.SELF_WITH_KIN,
    ),
    ("head-scan, steering", "kin/layer=L/part-*.parquet", "one row a token", schemas.kin(16)),
    ("head-scan", "heads.parquet", "one row a head", schemas_heads.HEADS),
    ("head-scan", "spectrum.parquet", "2H rows a head", schemas_heads.SPECTRUM),
    (
        "head-scan, reproduce",
        "prompt_scores/part-*.parquet",
        "one row for each prompt and head",
        schemas_heads.PROMPT_SCORES,
    ),
    ("head-scan, ablation, reproduce", "prompts.parquet", "one row a prompt", schemas_prompts.prompts(65)),
    ("ablation", "ablation.parquet", "one row for each component and head it reaches", schemas_ablation.ABLATION),
    ("ablation", "losses.parquet", "one row a component; not with --no-loss", schemas_ablation.LOSSES),
    (
        "ablation",
        "prompt_scores/source=S/part-*.parquet",
        "one row for each component, prompt and head; S: none, embeddings, L0, L1, ...",
        schemas_ablation.PROMPT_SCORES,
    ),
    (
        "ablation",
        "passage_losses/source=S/part-*.parquet",
        "one row for each component and passage; S: none, embeddings, L0, L1, ...",
        schemas_ablation.PASSAGE_LOSSES,
    ),
    (
        "ablation --kind mean",
        "output_sums/corpus=C/part-*.parquet",
        "one row for each output; C: prompts or text",
        schemas_ablation.output_sums(768),
    ),
    ("steering", "steering.parquet", "one row a point of the grid", schemas_steering.STEERING),
    ("steering", "steered/point=P/part-*.parquet", "one row a token at each point", schemas_steering.STEERED),
    ("steering", "samples.parquet", "one row for each token of a sample", schemas_steering.SAMPLES),
    ("steering", "heatmap.parquet", "one row for each condition and pair", schemas_steering.HEATMAP),
    ("steering --in-model", "in_model.parquet", "one row a point of the grid", schemas_steering.IN_MODEL),
    (
        "steering --in-model",
        "in_model/point=P/part-*.parquet",
        "one row a prompt at each point",
        schemas_steering.IN_MODEL_PROMPTS,
    ),
    ("communities", "communities.parquet", "one row a token", schemas_graph.COMMUNITIES),
    ("communities", "edges.parquet", "one row an edge", schemas_graph.EDGES),
    ("communities", "restarts.parquet", "one row a restart", schemas_graph.RESTARTS),
    ("communities", "memberships/restart=N/part-*.parquet", "one row a token", schemas_graph.MEMBERSHIPS),
    ("similarity", "similarity.parquet", "one row a bin of cosine similarity", schemas_similarity.SIMILARITY),
    ("similarity", "histogram/part-*.parquet", "one row for each cell with pairs", schemas_similarity.HISTOGRAM),
    ("reproduce", "reproduction.parquet", "one row for each figure and variant", schemas_reproduction.REPRODUCTION),
    ("reproduce", "notebook.parquet", "one row a head", schemas_reproduction.NOTEBOOK),
    ("similarity --frequencies", "subset.parquet", "one row a token", schemas_similarity.SUBSET),
)

HEAD = """# Tables

Written by `python docs/tables.py > docs/tables.md` from the schemas that every file carries: the same descriptions and
units stand in the metadata of each Parquet field. Lists are as long as a run's settings say (here `--top-k 10`, prompts
of 64 words, GPT-2 small's width). With `--scores bilinear` scores have no unit.

A part's name ends with the beginning of its SHA-256 (`part-00003-1f2e3d4c5b6a.parquet`), so that two attempts
at a shard never overwrite each other; `manifest.json` lists those that count. Tables of one file keep the name below.
"""


def page() -> str:
    """The page's text."""
    return "\n".join([HEAD, *(section(*table) for table in TABLES)])


def section(job: str, path: str, rows: str, schema: pa.Schema) -> str:
    """One table of the page."""
    lines = [f"## `{path}`", "", f"Written by {job}; {rows}.", ""]
    lines += ["| column | type | unit | meaning |", "|---|---|---|---|"]
    for field in schema:
        said = {key.decode(): value.decode() for key, value in field.metadata.items()}
        meaning = said["description"].replace("|", "\\|")
        if field.nullable and "null" not in meaning:
            meaning += "; may be null"
        lines.append(f"| `{field.name}` | {_kind(field.type)} | {said.get('unit', '')} | {meaning} |")
    return "\n".join([*lines, ""])


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_fixed_size_list(kind):
        return f"list of {kind.list_size} {_kind(kind.value_type)}"
    return {"float": "float32", "double": "float64"}.get(str(kind), str(kind))


if __name__ == "__main__":
    print(page(), end="")
