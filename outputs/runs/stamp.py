"""What each file of a run says of the run, so that one taken alone can be told: metadata in its footer."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

import qkatlas
from qkatlas.outputs.runs.identity import Request
from qkatlas.outputs.runs.layout import place_of

PREFIX = "qkatlas."
"""Before every key, as `qkatlas.run_id`."""

_SETTINGS = ("head", "states", "offset", "scores", "exclude_hubs")
"""Settings that say how the numbers of a table are to be read, where a run has them."""

_OF_WRITING = "ov_"
"""Tables of what heads write begin so; other tables of a head are of whom it attends to."""


def stamp_of(request: Request) -> dict[str, str]:
    """What every file of a run says of it.

    Only what identifies the run is in it, and the version of the software: no time, machine or path, nor what a user
    calls the model, so that the bytes of a file depend on the request alone.

    Args:
        request: what was asked for.

    Returns:
        Texts by their keys: run_id, job, model (its shape), weights_sha256, version, and the settings that are there
        of head, states, offset, scores and exclude_hubs.
    """
    told = {
        "run_id": request.run_id,
        "job": request.job,
        "model": _shape(request.model),
        "weights_sha256": request.weights_sha256,
        "version": qkatlas.__version__,
    }
    settings = {name: str(request.spec[name]) for name in _SETTINGS if request.spec.get(name) is not None}
    return {f"{PREFIX}{name}": text for name, text in {**told, **settings}.items()}


def stamped(table: pa.Table, stamp: Mapping[str, str], path: str) -> pa.Table:
    """A table that says what run it is of, and which head where it is of one: in its file's footer, once it is written.

    Args:
        table: the rows; what else its schema says stays.
        stamp: as `stamp_of` gives it.
        path: of its file in the run folder; one of a head is also told its head and circuit.
    """
    place = place_of(path)
    of_part = {}
    if "layer" in place and "head" in place:
        of_part = {
            "head": f"L{place['layer']}H{place['head']}",
            "circuit": "ov" if path.startswith(_OF_WRITING) else "qk",
        }
    elif "layer" in place:
        of_part = {"layer": str(place["layer"])}
    said = {f"{PREFIX}{key}": text for key, text in of_part.items()}
    return table.replace_schema_metadata({**(table.schema.metadata or {}), **stamp, **said})


def _shape(model: Mapping[str, object]) -> str:
    """A model in a few words: `gpt2, 12 layers of 12 heads, 50257 tokens`."""
    shape = model.get("architecture")
    if not isinstance(shape, Mapping):
        return "unknown"
    family = shape.get("family", "gpt2")  # which was the only one when runs did not name it
    return f"{family}, {shape.get('n_layers')} layers of {shape.get('n_heads')} heads, {shape.get('vocab_size')} tokens"
