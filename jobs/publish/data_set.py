"""Writes a finished run as a data set: one file a part, its layer and head in columns, and the card."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from qkatlas.jobs.publish.card import PublishedTable, card
from qkatlas.outputs.runs.layout import COLUMNS
from qkatlas.outputs.runs.listing import Listed
from qkatlas.outputs.runs.part import encoded
from qkatlas.outputs.runs.reader import partition_keys, parts_by_table, read_checked, with_keys
from qkatlas.outputs.runs.run import Run


def publish(run: Run, folder: Path, *, weights_licence: str, say: Callable[[str], None]) -> dict[str, PublishedTable]:
    """Write a data set under a name that appears when all is there.

    Neither machine, paths nor command line of the run are in it: it is made to be passed on.

    Args:
        run: a finished run.
        folder: where; must not exist, or be empty.
        weights_licence: of the model's weights, as the hub names it.
        say: told of each table.

    Returns:
        Its tables by name.

    Raises:
        ValueError: if the folder holds files, the run is not finished, or a file of it is damaged.
        OSError: if it cannot be written; nothing is left.
    """
    manifest = run.manifest()
    if manifest is None:
        raise ValueError(f"run {run.folder.name} is not finished; submit the same request again to finish it")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not an empty folder; name one that is new, so that nothing is mixed with others")
    listed, origin = Listed.of(run), manifest.provenance
    versions = dict(origin.versions) if origin else {}
    told = {
        "run_id": listed.run_id, "job": listed.job, "model": (listed.model or "").rstrip("/").rpartition("/")[2],
        "weights_sha256": listed.weights_sha256, "settings": dict(listed.settings), "versions": versions,
    }  # fmt: skip
    folder.parent.mkdir(parents=True, exist_ok=True)
    growing = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    try:
        tables = {}
        for name, parts in parts_by_table(run).items():
            (growing / "data" / name).mkdir(parents=True)
            for number, (part, keys) in enumerate(zip(parts, partition_keys(parts), strict=True)):
                rows = _in_columns(read_checked(run, part), keys, told)
                file = growing / "data" / name / f"{number:05d}-of-{len(parts):05d}.parquet"
                file.write_bytes(encoded(rows))
            count = sum(part.rows for part in parts)
            tables[name] = PublishedTable(schema=rows.schema, rows=count, files=f"data/{name}/*.parquet")
            say(f"{name}: {count} rows in {len(parts)} files")
        text = card(listed, tables, versions=versions, weights_licence=weights_licence)
        (growing / "README.md").write_text(text, encoding="utf-8")
        (growing / "run.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        growing.replace(folder)
    finally:
        shutil.rmtree(growing, ignore_errors=True)
    return tables


def _in_columns(rows: pa.Table, keys: dict[str, pa.Scalar], told: dict[str, Any]) -> pa.Table:
    """A part's rows with its keys as columns, the first ones, and what the run is in the file's metadata."""
    wide = with_keys(rows, keys)
    first = [name for name in wide.column_names if name in keys or name in COLUMNS]
    wide = wide.select([*first, *(name for name in wide.column_names if name not in first)])
    fields = [COLUMNS[field.name] if field.name in keys and field.name in COLUMNS else field for field in wide.schema]
    metadata = {
        f"qkatlas.{name}": value if isinstance(value, str) else json.dumps(value) for name, value in told.items()
    }
    return wide.cast(pa.schema(fields, metadata=metadata))


def require_loadable(folder: Path, tables: dict[str, PublishedTable]) -> None:
    """Check a data set by loading it as its users will.

    Args:
        folder: the data set.
        tables: what should be in it.

    Raises:
        ValueError: if `datasets` finds other tables, columns or rows in it.
    """
    from tempfile import TemporaryDirectory

    from datasets import disable_progress_bars, get_dataset_config_names, load_dataset

    disable_progress_bars()
    found = sorted(get_dataset_config_names(str(folder)))
    if found != sorted(tables):
        raise ValueError(f"{folder} loads with the tables {', '.join(found)}; expected {', '.join(sorted(tables))}")
    with TemporaryDirectory() as cache:
        for name, table in tables.items():
            loaded = load_dataset(str(folder), name, split="train", cache_dir=cache)
            if loaded.column_names != table.schema.names or len(loaded) != table.rows:
                given = f"{len(loaded)} rows of {', '.join(loaded.column_names)}"
                wanted = f"{table.rows} of {', '.join(table.schema.names)}"
                raise ValueError(f"{folder}: table {name} loads with {given}; expected {wanted}")
