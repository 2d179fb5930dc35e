"""What identifies a run: everything that changes its results, and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from qkatlas.outputs.runs.record import Entry, ShapeError

DATA_VERSION = 1
"""Version of what the tables mean; a change of it gives every run a new id."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked for, and its name.

    Attributes:
        run_id: hash of the rest: 12 hexadecimal digits.
        job: name of the job, such as `full-vocab`.
        spec: the job's settings that change results.
        model: the model's identity: architecture, weights hash, vocabulary hash.
        data_version: what the tables mean.
    """

    run_id: str
    job: str
    spec: Mapping[str, Any]
    model: Mapping[str, Any]
    data_version: int

    @property
    def weights_sha256(self) -> str:
        """Hash of the model's weights."""
        return str(self.model["weights_sha256"])

    @property
    def vocab_size(self) -> int | None:
        """Tokens of the model, where its identity tells."""
        architecture = self.model.get("architecture")
        size = architecture.get("vocab_size") if isinstance(architecture, Mapping) else None
        return size if isinstance(size, int) else None

    def as_json(self) -> dict[str, Any]:
        """The request as a JSON object."""
        return asdict(self)

    @classmethod
    def of(cls, entry: Entry) -> Request:
        """Read a request.

        Args:
            entry: the record that begins with it.

        Raises:
            ShapeError: if it is none, or its id does not follow from the rest.
        """
        model = entry.entry("model")
        model.text("weights_sha256")
        request = cls(
            run_id=entry.text("run_id"),
            job=entry.text("job"),
            spec=entry.free("spec"),
            model=model.anything(),
            data_version=entry.whole("data_version"),
        )
        if request.run_id != _run_id(request.job, request.spec, request.model, request.data_version):
            raise ShapeError("its run id does not follow from its request")
        return request


def identify(job: str, spec: Mapping[str, Any], model: Mapping[str, Any]) -> Request:
    """Give a request its run id.

    Args:
        job: name of the job, such as `full-vocab`.
        spec: the job's settings that change results; JSON values only. GPUs, paths, shards and retries are not
            among them.
        model: the model's identity: architecture, weights hash, vocabulary hash.

    Returns:
        The request with the id that is its hash.

    Raises:
        TypeError: if a setting cannot be written as JSON, and so could not be told apart from another.
    """
    run_id = _run_id(job, spec, model, DATA_VERSION)
    return Request(run_id=run_id, job=job, spec=dict(spec), model=dict(model), data_version=DATA_VERSION)


def _run_id(job: str, spec: Mapping[str, Any], model: Mapping[str, Any], data_version: int) -> str:
    identity = {"job": job, "spec": dict(spec), "model": dict(model), "data_version": data_version}
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]
