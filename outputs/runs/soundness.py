"""Whether a finished run is what its manifest says, so that every reader gets the same rows from it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from urllib.parse import unquote

from qkatlas.outputs.places.folder import side_by_side
from qkatlas.outputs.runs.identity import Request
from qkatlas.outputs.runs.journal import Receipt
from qkatlas.outputs.runs.manifest import Manifest
from qkatlas.outputs.runs.part import OTHER_CONTENT, OTHER_ROWS, DamagedPartError, Part, footer
from qkatlas.outputs.runs.part import faults as part_faults
from qkatlas.outputs.runs.run import DamagedRunError, Run
from qkatlas.outputs.runs.shard import Shard

_INDEX = re.compile(r"part-(\d+)(?:-[0-9a-f]+)?\.parquet")
_NUMBERS = ("layer", "head")
"""Keys of folders that are numbers in every table."""
_LARGEST = 2**31 - 1
_NULL = "__HIVE_DEFAULT_PARTITION__"
"""What readers of folders take for no value."""


def faults(run: Run) -> list[str]:
    """Everything that differs on disk from what a finished run's manifest says; empty if it is sound.

    Raises:
        ValueError: if the run is not finished.
        OSError: if an object store does not answer.
    """
    try:
        manifest = run.manifest()
    except DamagedRunError as error:
        return [error.fault]
    if manifest is None:
        raise ValueError(f"run {run.folder.name} is not finished; submit the same request again to finish it")
    found = list(part_faults(run.folder, manifest.parts).values())
    found += _unlike(run, manifest.parts) if not found else []
    return found + _contradictions(run, manifest)


def is_finished(run: Run, request: Request, covers: Callable[[Sequence[Shard]], bool]) -> bool:
    """Whether a request has its run already: nothing has to be computed, nor written anew.

    Args:
        run: the run that has its id.
        request: the request.
        covers: whether shards are a whole plan of its job.

    Raises:
        OSError: if an object store does not answer.
    """
    try:
        manifest = run.manifest()
        run.plan()
    except DamagedRunError:
        return False
    if manifest is None or manifest.request.run_id != request.run_id or not covers(manifest.plan.shards):
        return False
    hashed = not run.folder.sizes_suffice
    return not _contradictions(run, manifest) and not part_faults(run.folder, manifest.parts, hashed=hashed)


def remedy(run: Run, found: Sequence[str]) -> str:
    """What to do about faults.

    A request that is submitted again reads every file on a disk, but tells objects that appear whole by their size.

    Args:
        run: the run.
        found: its `faults`.
    """
    if run.folder.sizes_suffice and any(fault.endswith(OTHER_CONTENT) for fault in found):
        return "remove the objects with other content, then submit the same request again to compute them anew"
    if run.folder.sizes_suffice and any(OTHER_ROWS in fault for fault in found):
        return "remove its manifest.json, then submit the same request again to write it anew"
    return "submit the same request again to repair it"


def _contradictions(run: Run, manifest: Manifest) -> list[str]:
    """What the manifest says otherwise than the other records, the names of the files, and what lies there."""
    found = []
    if not run.folder.name.endswith(f"-{manifest.request.run_id}"):
        found.append(f"manifest.json is that of run {manifest.request.run_id}")
    known = {part.path for part in manifest.parts}
    found += [f"{path} was not written by the run" for path in run.strangers(known)]
    try:
        plan = run.plan()
    except DamagedRunError as error:
        return [*found, error.fault]
    if plan is not None and plan.request == manifest.request and plan.shards != manifest.plan.shards:
        found.append("manifest.json lists other shards than _state/plan.json")
    return [*found, *_unlisted(manifest, run.committed()), *_gaps(manifest)]


def _unlisted(manifest: Manifest, receipts: dict[str, Receipt]) -> Iterator[str]:
    """Parts of shards that are not listed as they were committed, and listed parts of no shard."""
    listed = {part.path: part for part in manifest.parts}
    computed = {done.shard.name: done.inputs for done in manifest.shards}
    mine = [one for name, one in receipts.items() if computed.get(name) == one.inputs]
    written = {part.path for receipt in mine for part in receipt.parts}
    for receipt in mine:
        for part in receipt.parts:
            if part.path not in listed:
                yield f"manifest.json does not list {part.path} of shard {receipt.shard}"
            elif listed[part.path] != part:
                yield f"manifest.json lists {part.path} otherwise than shard {receipt.shard} was committed"
    if len(mine) == len(computed):  # else whose they are is not known
        yield from (f"{path} is listed, but of no shard" for path in listed if "/" in path and path not in written)


def _gaps(manifest: Manifest) -> Iterator[str]:
    """What shows without a journal that parts are not listed, or more than once: their numbers."""
    numbers: dict[str, list[int]] = {}
    for part in manifest.parts:
        folder, _, name = part.path.rpartition("/")
        if index := _INDEX.fullmatch(name):
            numbers.setdefault(folder, []).append(int(index[1]))
    for folder, found in numbers.items():
        if sorted(found) != list(range(len(found))):
            yield f"manifest.json does not list the parts of {folder} one by one from 0"
    highest = max((number for found in numbers.values() for number in found), default=-1)
    for done in manifest.shards:
        if done.shard.bounds.get("part", -1) > highest:
            yield f"manifest.json lists no part of shard {done.shard.name}"


def _unlike(run: Run, parts: Sequence[Part]) -> Iterator[str]:
    """Parts that cannot be read as one table with the others in their folder."""

    def columns(part: Part) -> dict[str, str]:
        schema = footer(run.folder, part).schema.to_arrow_schema()
        return {field.name: str(field.type) for field in schema}

    try:
        found = dict(zip(parts, side_by_side(run.folder, columns, parts), strict=True))
    except DamagedPartError as error:
        yield str(error)
        return
    inside = sorted((part for part in parts if "/" in part.path), key=lambda part: part.path.partition("/")[0])
    for _, group in groupby(inside, key=lambda part: part.path.partition("/")[0]):
        first, *others = table = list(group)
        keys = {part: _keys(part) for part in table}
        for part in others:
            if found[part] != found[first]:
                yield f"{part.path} has other columns than {first.path}"
            if list(keys[part]) != list(keys[first]):
                yield f"{part.path} lies in folders of other keys than {first.path}"
        for part in table:
            if set(keys[part]) & set(found[part]):
                yield f"{part.path} has a column that its folders have, too"
            for key, value in keys[part].items():
                if value in ("", _NULL) or unquote(value) != value or (key in _NUMBERS and not _is_number(value)):
                    yield f"{part.path} lies in a folder whose {key} has no value that all readers take alike"


def _keys(part: Part) -> dict[str, str]:
    return dict(name.split("=", 1) for name in part.path.split("/")[1:-1] if "=" in name)


def _is_number(value: str) -> bool:
    return value.isdecimal() and value.isascii() and int(value) <= _LARGEST
