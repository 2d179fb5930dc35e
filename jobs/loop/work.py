"""What the loop does on a worker: compute one shard, write its parts, hand back a receipt."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from qkatlas.cluster.executor import Grant
from qkatlas.cluster.memory import peak_memory
from qkatlas.jobs.loop.step import Produced
from qkatlas.outputs.places.folder import Folder
from qkatlas.outputs.runs.journal import Receipt
from qkatlas.outputs.runs.layout import placed
from qkatlas.outputs.runs.measures import Measures
from qkatlas.outputs.runs.part import write_part
from qkatlas.outputs.runs.record import Entry
from qkatlas.outputs.runs.shard import Shard
from qkatlas.outputs.runs.stamp import stamped


@dataclass(frozen=True, kw_only=True)
class Task:
    """A shard as it is sent to a worker, beside what all shards of its step share.

    Attributes:
        compute: `Step.compute`.
        folder: of the run.
        inputs: digest of what is shared.
        paths: where the shard's part of each table goes, by the table's name.
        stamp: what every part says of the run.
        each: what `Step.each` made.
    """

    compute: Callable[..., Produced]
    folder: Folder
    inputs: str
    paths: Mapping[str, str]
    stamp: Mapping[str, str]
    each: Any


def compute_shard(grant: Grant, shard: Shard, task: Task, shared: Any) -> Receipt:
    """Compute one shard and write its parts; runs on a worker.

    Raises:
        OSError: if a part cannot be written.
    """
    started = time.perf_counter()
    produced = task.compute(grant, shard, shared, task.each)
    computed = time.perf_counter()
    parts = tuple(
        write_part(task.folder, path, stamped(placed(table, path), task.stamp, path))
        for path, table in ((task.paths[name], table) for name, table in produced.tables.items())
    )
    ended = time.perf_counter()
    cost = {
        "seconds": round(ended - started, 4),
        "writing_seconds": round(ended - computed, 4),
        "peak_memory_mb": peak_memory() >> 20,
        "device": grant.device,
        "cpus": grant.cpus,
    }
    measures = Measures.of(Entry({**cost, **produced.measures}))  # a job that uses no GPU says so
    return Receipt(shard=shard.name, inputs=task.inputs, parts=parts, measures=measures, summary=produced.summary)
