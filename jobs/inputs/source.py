"""A finished run that another job goes on from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from qkatlas.outputs.places.folder import Folder
from qkatlas.outputs.runs import soundness, store
from qkatlas.outputs.runs.reader import list_matrix, read_parts, read_whole
from qkatlas.outputs.runs.run import Run
from qkatlas.pipeline.models.head import Head


@dataclass(frozen=True)
class SourceRun:
    """A finished, sound full-vocab run.

    Attributes:
        run: its folder.
        run_id: its id.
        name: what its user called the model.
        identity: what of the model changes results.
        top_k: keys kept for each query token.
        head: the head whose keys they are.
    """

    run: Run
    run_id: str
    name: str
    identity: dict[str, Any]
    top_k: int
    head: Head

    @classmethod
    def open(cls, out: Folder | Path, name: str) -> SourceRun:
        """Find a run and check every file of it.

        Args:
            out: folder of all runs.
            name: as `store.find` takes it.

        Returns:
            The run.

        Raises:
            ValueError: if there is none, or it is no full-vocab run, not finished, or damaged.
        """
        run = store.find(out, name)
        record = run.manifest() or run.plan()
        if record is not None and record.request.job != "full-vocab":
            raise ValueError(f"run {run.folder.name} is of {record.request.job}; name a run of submit full-vocab")
        faults = soundness.faults(run)
        if faults:
            raise ValueError(f"run {run.folder.name} is damaged ({faults[0]}); {soundness.remedy(run, faults)}")
        manifest = run.manifest()
        assert manifest is not None, "a run without faults is finished"
        request = manifest.request
        called = manifest.provenance.model if manifest.provenance else None
        return cls(
            run=run,
            run_id=request.run_id,
            name=called or "unknown model",
            identity=dict(request.model),
            top_k=request.spec["top_k"],
            head=Head.parse(request.spec["head"]),
        )

    @cached_property
    def tokens(self) -> pa.Table:
        """The `tokens` table."""
        return read_whole(self.run, "tokens")

    def texts(self) -> list[str] | None:
        """Texts of the tokens by id, or None if the model came without a tokenizer."""
        if self.tokens["bytes"].null_count == len(self.tokens):
            return None
        texts: list[str] = self.tokens["text"].to_pylist()
        return texts

    def key_ids(self) -> np.ndarray:
        """Kept keys of every token, best first: int32 [V, K]."""
        manifest = self.run.manifest()
        assert manifest is not None, "it was checked"
        table = read_parts(self.run, manifest.parts, "topk")
        return list_matrix(table.sort_by("token_id"), "key_ids")
