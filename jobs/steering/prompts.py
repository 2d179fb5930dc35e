"""The part of a steering run that writes the steered head into the model's forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.prompts import DrawnPrompts
from qkatlas.outputs.runs.reader import read_parts
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.shard import Shard
from qkatlas.outputs.schemas import steering as schemas
from qkatlas.pipeline.circuit.point import Point
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.text.prompts import CategoryPrompts

GROUP = "in-model"
"""Group of the shards."""


def draw_prompts(model: Model, *, count: int, length: int | None, seed: int) -> CategoryPrompts:
    """Draw the prompts that the steered model runs.

    Args:
        model: the model.
        count: prompts.
        length: words in one; None = 64, or as many as the model reads after BOS.
        seed: of the draw.

    Raises:
        ValueError: if the model has no BOS, no categories, or reads fewer words.
    """
    drawn = DrawnPrompts.draw(model, words=None, count=count, length=length, seed=seed)
    if drawn.prompts is None:
        model.vocabulary.require_readable()
        raise ValueError(
            "--in-model needs prompts of category words, and the model has no token or no room for them; leave it out"
        )
    return drawn.prompts


def prompt_shards(head: Head, points: Sequence[Point]) -> list[Shard]:
    """One shard a point of the grid."""
    place = {"layer": head.layer, "head": head.index}
    return [
        Shard(f"{head}-in-model-{number:04d}", GROUP, {**place, "in_model": number}, "in-model")
        for number in range(len(points))
    ]


def in_model_table(run: Run, shards: Sequence[Shard], points: Sequence[Point]) -> pa.Table:
    """One row a point: means over prompts, and the change of the loss against the unsteered head.

    Args:
        run: with all shards committed.
        shards: `prompt_shards`.
        points: the grid.
    """
    receipts = run.receipts()
    tables = [read_parts(run, receipts[shard.name].parts) for shard in shards]
    plain_P = tables[0]["loss"].to_numpy()
    rows: list[Mapping[str, Any]] = []
    for number, (point, table) in enumerate(zip(points, tables, strict=True)):
        means = {name: float(table[name].to_numpy().mean()) for name in schemas.IN_MODEL_PROMPTS.names[1:]}
        delta_P = table["loss"].to_numpy() - plain_P
        rows.append(
            {
                "point": number,
                **asdict(point),
                **means,
                "loss_delta": float(delta_P.mean()),
                "loss_delta_std": float(delta_P.std()),
                "n_prompts": len(delta_P),
            }
        )
    return pa.Table.from_pylist(rows, schema=schemas.IN_MODEL)
