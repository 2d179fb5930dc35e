"""A run of three rows, made by the steps of the loop without a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from qkatlas.outputs.places.folder import Folder
from qkatlas.outputs.places.open import open_folder
from qkatlas.outputs.runs.identity import identify
from qkatlas.outputs.runs.journal import Receipt
from qkatlas.outputs.runs.layout import placed
from qkatlas.outputs.runs.part import write_part
from qkatlas.outputs.runs.provenance import Provenance
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.shard import Shard
from qkatlas.outputs.runs.soundness import is_finished

SHARDS = [Shard(f"s{number}", "g", {"part": number, "start": number, "stop": number + 1}) for number in range(3)]

ORIGIN = Provenance(model="m", finished="2026-01-01T00:00:00+00:00")


def covers(shards: Sequence[Shard]) -> bool:
    return list(shards) == SHARDS


def finish(out: Path | Folder, *, origin: Provenance = ORIGIN, **spec: object) -> Run:
    """Submit the run; what is there of it is kept."""
    request = identify("test", {"head": "L0H0", **spec}, {"weights_sha256": "w"})
    run = Run(open_folder(out) / f"test-{request.run_id}")
    if is_finished(run, request, covers):
        return run
    with run.driving():
        run.reopen()
        shards = run.plan_or_load(request, SHARDS, covers)
        for shard in run.missing(shards):
            number = shard.bounds["part"]
            parts = tuple(
                write_part(
                    run.folder,
                    path,
                    placed(pa.table({"token_id": pa.array([number], pa.int32()), "score": [value]}), path),
                )
                for path, value in (
                    (f"topk/L0H0/part-{number:05d}.parquet", 1.0),
                    (f"self/L0H0/part-{number:05d}.parquet", 2.0),
                )
            )
            run.record(Receipt(shard=shard.name, inputs="i", parts=parts))
        table = pa.table({"token_id": pa.array([0, 1, 2], pa.int32())})
        run.commit(
            request,
            shards,
            [run.write_table("tokens.parquet", table)],
            provenance=origin,
        )
    return run
