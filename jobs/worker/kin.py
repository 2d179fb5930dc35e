"""Shards that find the kin of a layer's tokens, for jobs that compare a head's scores with look-alikes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qkatlas.cluster.executor import Grant
from qkatlas.jobs.worker.kin_shards import kin_file
from qkatlas.jobs.worker.prepared import prepared_keys
from qkatlas.jobs.worker.tables import kin_table
from qkatlas.outputs.places.folder import Folder
from qkatlas.outputs.runs.part import Part, read_part, write_part
from qkatlas.outputs.runs.reader import list_matrix, read_parts
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.shard import Shard
from qkatlas.pipeline.circuit.kin import nearest


def find_kin(grant: Grant, shard: Shard, folder: Folder, digest: str, unit_VD: np.ndarray) -> Part:
    """Find the kin of one shard's tokens and write them.

    Args:
        grant: what the worker may use.
        shard: one of `kin_shards`.
        folder: of the run.
        digest: hash of the states.
        unit_VD: float32 [V, D], `unit_states` of the layer.

    Raises:
        OSError: if the part cannot be written.
    """
    bounds = shard.bounds
    rows = slice(bounds["start"], bounds["stop"])
    keys = prepared_keys(f"kin {digest}", unit_VD, grant.device)
    ids_RN, cosines_RN = nearest(keys, rows, threads=grant.cpus)
    table = kin_table(np.arange(rows.start, rows.stop, dtype=np.int32), ids_RN, cosines_RN)
    return write_part(folder, kin_file(shard), table)


def copy_kin(folder: Folder, other: Folder, part: Part) -> Part:
    """Write what another run found from the same states: the same bytes as if it were found again.

    Args:
        folder: of the run.
        other: of the other run.
        part: its part.

    Raises:
        OSError: if the part cannot be read, is not what it was, or cannot be written.
    """
    folder.write(part.path, read_part(other, part))
    return part


def kin_parts(run: Run, shards: Sequence[Shard], inputs: str) -> dict[str, Part] | None:
    """The parts with the committed kin of a layer.

    Args:
        run: the run.
        shards: all `kin_shards` of the layer.
        inputs: what their receipts must say they were computed from.

    Returns:
        The part of each shard, by its name; None unless all are there.
    """
    receipts = run.receipts()
    if any(shard.name not in receipts or receipts[shard.name].inputs != inputs for shard in shards):
        return None
    return {shard.name: receipts[shard.name].parts[0] for shard in shards}


def committed_kin(run: Run, shards: Sequence[Shard], inputs: str, vocab_size: int) -> np.ndarray | None:
    """The committed kin of a layer.

    Args:
        run: the run.
        shards: all `kin_shards` of the layer.
        inputs: what their receipts must say they were computed from.
        vocab_size: V.

    Returns:
        int32 [V, N]; None unless all of it is there.
    """
    parts = kin_parts(run, shards, inputs)
    if parts is None:
        return None
    if not shards:
        return np.empty((vocab_size, 0), np.int32)
    return list_matrix(read_parts(run, list(parts.values())), "kin_ids")
