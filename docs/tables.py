"""Prints docs/tables.md, the description of every table and column, from what jobs declare."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from qkatlas.jobs.loop.declaration import declarations
from qkatlas.jobs.loop.table import Table

HEAD = """# Tables

Written by `python docs/tables.py > docs/tables.md` from the tables that jobs declare, with the schemas that every file
carries: the same descriptions and units stand in the metadata of each Parquet field. Tables of several jobs come
first. Lists are as long as a run's settings say (here `--top-k 10`, prompts of 64 words, GPT-2 small's width). With
`--scores bilinear` scores have no unit.

A part's name ends with the beginning of its SHA-256 (`part-00003-1f2e3d4c5b6a.parquet`), so that two attempts
at a shard never overwrite each other; `manifest.json` lists those that count. Tables of one file keep the name below.

Every file says what it is of, in its footer: the keys `run_id`, `job`, `model` (family and shape), `weights_sha256`,
`version`, the settings `states`, `offset`, `scores` and `exclude_hubs` where the run has them, and of one head `head`
and `circuit` (`qk` or `ov`), all behind the prefix `qkatlas.`: `pyarrow.parquet.read_metadata(file).metadata`,
`polars.read_parquet_metadata(file)`, or `parquet_kv_metadata(file)` in DuckDB. What a user called the model is in the
manifest alone, for files depend on the request and on nothing else.

What is of one head lies in a folder of its name, such as `L1H5`, and what a layer's heads share in `L1`; each file says
so too, in int32 columns `layer` and `head` in front of the others, so that every reader tells heads apart
([library.md](library.md#tables-without-our-code)). Runs of earlier versions have folders `layer=1/head=5` instead, and
no such columns inside: pandas and pyarrow take those folders for dictionaries and refuse columns of another type by
their names (`Unable to merge: Field layer has incompatible types`). All commands read both, and a run that an earlier
version began is finished as it was begun.
"""


@dataclass
class Described:
    """One table of the page, and who writes it.

    Attributes:
        table: with all columns that there are.
        writers: jobs, each with its own table, which may have fewer columns.
    """

    table: Table
    writers: list[tuple[str, Table]] = field(default_factory=list)

    def takes(self, table: Table) -> bool:
        """Whether a table is the same but for columns that one of both lacks."""
        if table.pattern != self.table.pattern:
            return False
        ours, theirs = _columns(self.table), _columns(table)
        return ours <= theirs or theirs <= ours

    def add(self, job: str, table: Table) -> None:
        """Note that a job writes it."""
        self.writers.append((job, table))
        if len(table.schema) > len(self.table.schema):
            self.table = table


def page() -> str:
    """The page's text."""
    jobs = {name: declared.load(declared.job).tables for name, declared in declarations().items()}
    found: list[Described] = []
    for job, tables in jobs.items():
        for table in tables:
            known = next((one for one in found if one.takes(table)), None)
            if known is None:
                known = Described(table)
                found.append(known)
            known.add(job, table)
    found.sort(key=lambda one: -len(one.writers))
    return "\n".join([HEAD, *(section(one, list(jobs)) for one in found)])


def section(described: Described, jobs: list[str]) -> str:
    """One table of the page."""
    table = described.table
    lines = [f"## `{table.pattern}`", "", f"Written by {', '.join(_writers(described, jobs))}; {table.rows}.", ""]
    lines += ["| column | type | unit | meaning |", "|---|---|---|---|"]
    for column in table.columns:
        said = {key.decode(): value.decode() for key, value in column.metadata.items()}
        meaning = said["description"].replace("|", "\\|")
        if column.nullable and "null" not in meaning:
            meaning += "; may be null"
        lines.append(f"| `{column.name}` | {_kind(column.type)} | {said.get('unit', '')} | {meaning} |")
    return "\n".join([*lines, ""])


def _writers(described: Described, jobs: list[str]) -> Iterator[str]:
    """The jobs that write a table, each with when it does, and with which columns it does not."""
    columns = _columns(described.table)
    every = {job for job, table in described.writers if _columns(table) == columns and not table.when}
    others = [job for job in jobs if job not in every]
    if len(every) > 2 and len(others) == 1 and len(described.writers) == len(every):
        yield f"every job but {others[0]}"
        return
    for job, table in described.writers:
        lacking = [name for name in described.table.schema.names if name not in table.schema.names]
        without = f" (without {' and '.join(lacking)})" if lacking else ""
        yield f"{job} {table.when}".rstrip() + without


def _columns(table: Table) -> set[tuple[str, str, str]]:
    """Names, types and descriptions, which tell columns apart."""
    return {(column.name, str(column.type), str(column.metadata)) for column in table.schema}


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_fixed_size_list(kind):
        return f"list of {kind.list_size} {_kind(kind.value_type)}"
    return {"float": "float32", "double": "float64"}.get(str(kind), str(kind))


if __name__ == "__main__":
    print(page(), end="")
