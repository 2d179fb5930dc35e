"""Tables of a steering run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa

from qkatlas.jobs.loop.table import Table
from qkatlas.jobs.worker.tables import KIN, SELF_WITH_KIN, TOKENS, TOPK
from qkatlas.outputs.schemas import steering as schemas
from qkatlas.pipeline.circuit.point import Point
from qkatlas.pipeline.scoring.rows import RowScores
from qkatlas.pipeline.text.word_tokens import TokenCategory

_IN_MODEL = "--in-model"

TABLES = (
    TOKENS,
    Table(name="steering", rows="one row a point of the grid", schema=schemas.STEERING),
    Table(name="samples", rows="one row for each token of a sample", schema=schemas.SAMPLES),
    Table(name="heatmap", rows="one row for each condition and pair", schema=schemas.HEATMAP),
    Table(name="in_model", rows="one row a point of the grid", schema=schemas.IN_MODEL, when=_IN_MODEL),
    KIN,
    replace(TOPK, kinds=("unsteered",)),
    replace(SELF_WITH_KIN, kinds=("unsteered",)),
    Table(
        name="steered",
        rows="one row a token at each point",
        schema=schemas.STEERED,
        file="steered/point={point:04d}/part-{part:05d}.parquet",
        kinds=("unsteered", "steered"),
    ),
    Table(
        name="heatmap_parts",
        rows="the rows of heatmap.parquet, as they were computed",
        schema=schemas.HEATMAP,
        file="heatmap/part-{part:05d}.parquet",
        kinds=("heatmap",),
    ),
    Table(
        name="in_model_prompts",
        rows="one row a prompt at each point",
        schema=schemas.IN_MODEL_PROMPTS,
        file="in_model/point={in_model:04d}/part-{part:05d}.parquet",
        kinds=("in-model",),
        shown={"in_model": "P"},
        when=_IN_MODEL,
    ),
)


def steering_table(rows: Sequence[tuple[Point, Mapping[str, Any]]]) -> pa.Table:
    """One row a point of the grid, from its shard's summary."""
    listed = [{"point": number, **asdict(point), **summary} for number, (point, summary) in enumerate(rows)]
    return pa.Table.from_pylist(listed, schema=schemas.STEERING)


def steered_table(scores: RowScores, self_z_V: np.ndarray, kin_z_V: np.ndarray, overlap_V: np.ndarray) -> pa.Table:
    """One row a token at one point of the grid.

    Args:
        scores: steered rows of the whole vocabulary.
        self_z_V: float64 [V], NaN where a row does not vary.
        kin_z_V: float64 [V], NaN where undefined.
        overlap_V: float64 [V].
    """
    columns = [
        pa.array(np.arange(len(overlap_V), dtype=np.int32)),
        pa.array(scores.self_score_R),
        pa.array(scores.self_rank_R),
        pa.array(self_z_V.astype(np.float32), mask=np.isnan(self_z_V)),
        pa.array(kin_z_V.astype(np.float32), mask=np.isnan(kin_z_V)),
        pa.array(overlap_V.astype(np.float32)),
    ]
    return pa.Table.from_arrays(columns, schema=schemas.STEERED)


def samples_table(sample_R: np.ndarray, categories: Sequence[TokenCategory]) -> pa.Table:
    """The tokens behind sampled figures."""
    rows: list[dict[str, Any]] = [{"sample": "spearman", "token_id": token} for token in sample_R.tolist()]
    for category in categories:
        rows += [
            {"sample": "category", "token_id": token, "category": category.name}
            for token in category.token_ids.tolist()
        ]
    return pa.Table.from_pylist(rows, schema=schemas.SAMPLES)


def heatmap_table(
    conditions: Sequence[tuple[str, float | None]], token_ids_G: np.ndarray, maps: Sequence[np.ndarray]
) -> pa.Table:
    """All pairs of a token group under each condition.

    Args:
        conditions: name and alpha of each.
        token_ids_G: int32 [G].
        maps: float32 [G, G] for each condition, rows are queries.
    """
    size = len(token_ids_G)
    names = [name for name, _ in conditions for _ in range(size**2)]
    alphas = [alpha for _, alpha in conditions for _ in range(size**2)]
    columns = [
        pa.array(names, pa.string()),
        pa.array(alphas, pa.float64()),
        pa.array(np.tile(np.repeat(token_ids_G, size), len(conditions))),
        pa.array(np.tile(token_ids_G, size * len(conditions))),
        pa.array(np.concatenate([scores_GG.reshape(-1) for scores_GG in maps])),
    ]
    return pa.Table.from_arrays(columns, schema=schemas.HEATMAP)
