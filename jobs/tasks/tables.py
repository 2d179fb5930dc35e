"""Tables of a tasks run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from qkatlas.jobs.loop.table import Table
from qkatlas.jobs.tasks.corpus import REPLACED, TEXT, UNCHANGED, of_losses
from qkatlas.jobs.worker.tables import TOKENS
from qkatlas.outputs.schemas import tasks as schemas
from qkatlas.pipeline.tasks.prompts import TaskPrompts

_OF_TASK = "T{task:02d}/part-{part:05d}.parquet"

TABLES = (
    TOKENS,
    Table(name="tasks", rows="one row a task", schema=schemas.TASKS),
    Table(name="task_heads", rows="one row for each task and head", schema=schemas.TASK_HEADS),
    Table(name="task_counts", rows="one row a head", schema=schemas.TASK_COUNTS),
    Table(name="dla_sources", rows="one row for each task, head and offset", schema=schemas.DLA_SOURCES),
    Table(name="dla_components", rows="one row for each task and component", schema=schemas.DLA_COMPONENTS),
    Table(name="prefix", rows="one row for each length and head", schema=schemas.PREFIX),
    Table(name="prefix_corrupted", rows="one row for each source and head", schema=schemas.PREFIX_CORRUPTED),
    Table(name="prefix_text", rows="one row for each head and length", schema=schemas.PREFIX_TEXT,
          when="without --no-prefixes"),
    Table(name="task_prompts", rows="one row a prompt", schema=schemas.TASK_PROMPTS),
    Table(name="task_losses", rows="one row for each ablated head and prompt; S: none, L0, L5 and so on",
          schema=schemas.TASK_LOSSES, file="task_losses/T{task:02d}/{source}/part-{part:05d}.parquet", fields=of_losses,
          kinds=(UNCHANGED, REPLACED), shown={"task": "T", "source": "S"}),
    Table(name="task_dla", rows="one row for each head and prompt", schema=schemas.TASK_DLA,
          file=f"task_dla/{_OF_TASK}", kinds=(UNCHANGED,), shown={"task": "T"}),
    Table(name="head_sums", rows="one row for each head, of prompts and of controls", schema=schemas.head_sums(64),
          file=f"head_sums/{_OF_TASK}", kinds=(UNCHANGED,), shown={"task": "T"}),
    Table(name="source_sums", rows="one row for each head and offset", schema=schemas.SOURCE_SUMS,
          file=f"source_sums/{_OF_TASK}", kinds=(UNCHANGED,), shown={"task": "T"}),
    Table(name="prefix_examples", rows="one row for each head and query", schema=schemas.PREFIX_EXAMPLES,
          file="prefix_examples/part-{part:05d}.parquet", kinds=(TEXT,), when="without --no-prefixes"),
)  # fmt: skip


def prompts_table(tasks: Sequence[TaskPrompts]) -> pa.Table:
    """The prompts of all tasks."""
    rows = [
        {
            "task": prompts.task, "prompt": number,
            "token_ids": prompts.tokens_PT[number].tolist(), "control_ids": prompts.control_PT[number].tolist(),
            "positions": prompts.places_PA[number].tolist(), "answer_ids": prompts.answers_PA[number].tolist(),
        }
        for prompts in tasks
        for number in range(len(prompts))
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=schemas.TASK_PROMPTS)


def sources_table(sums: Sequence[pa.Table]) -> pa.Table:
    """Means over prompts and questions, from sums of several shards of each task.

    Args:
        sums: rows of `source_sums` of each task, its shards one after the other.
    """
    found = []
    for table in sums:
        keys = [table[name].to_numpy().astype(np.int64) for name in ("layer", "head", "offset")]
        unique, place = np.unique(np.stack(keys, axis=1), axis=0, return_inverse=True)
        place = place.reshape(-1)
        n = np.bincount(place, table["n"].to_numpy())
        means = [np.bincount(place, table[name].to_numpy()) / n for name in ("dla_centred", "attention")]
        columns = [
            pa.array([table["task"][0].as_py()] * len(unique)),
            *(pa.array(unique[:, column].astype(np.int32)) for column in range(3)),
            *map(pa.array, means),
            pa.array(n.astype(np.int32)),
        ]
        found.append(pa.Table.from_arrays(columns, schema=schemas.DLA_SOURCES))
    return pa.concat_tables(found).combine_chunks()
