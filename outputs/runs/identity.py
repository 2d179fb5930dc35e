"""What identifies a run: everything that changes its results, and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

DATA_VERSION = 1
"""Version of what the tables mean; a change of it gives every run a new id."""


FIELDS = ("job", "spec", "model", "data_version")


def identify(job: str, spec: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """Give a request its run id.

    Args:
        job: name of the job, such as `full-vocab`.
        spec: the job's settings that change results; JSON values only. GPUs, paths, shards and retries are not
            among them.
        model: the model's identity: architecture, weights hash, vocabulary hash.

    Returns:
        Job, spec, model and data version, with the `run_id` that is their hash: 12 hexadecimal digits.

    Raises:
        TypeError: if a setting cannot be written as JSON, and so could not be told apart from another.
    """
    request = {"job": job, "spec": dict(spec), "model": dict(model), "data_version": DATA_VERSION}
    return {"run_id": run_id(request), **request}


def run_id(request: Mapping[str, Any]) -> str:
    """The id that follows from a request's own entries."""
    identity = {field: request[field] for field in FIELDS}
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]
