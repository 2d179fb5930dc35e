"""Tables: what a job leaves on disk, declared once for the loop that writes, the report that reads, and the docs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from qkatlas.outputs.runs.layout import columns_at
from qkatlas.outputs.runs.shard import Shard


def _bounds(shard: Shard) -> Mapping[str, Any]:
    return {"part": 0, **shard.bounds}


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table of a job.

    Attributes:
        name: unique in the job.
        rows: what a row is, for the docs: `one row a token`.
        schema: of its files; of an example where lists are as long as a run's settings say.
        file: path in the run's folder. With fields such as `topk/L{layer}H{head}/part-{part:05d}.parquet`
            each shard writes a part, whose name the content's hash is added to; without, the run writes one file.
        fields: values of these fields, by their names; the shard's bounds and `part` 0 if not given.
        shown: how the docs write fields that are no numbers, by their names: `{"source": "S"}`.
        kinds: kinds of the shards that write parts of it; empty = all of the job's.
        when: in which runs it is there, for the docs; empty = in all.
    """

    name: str
    rows: str
    schema: pa.Schema
    file: str = ""
    fields: Callable[[Shard], Mapping[str, Any]] = _bounds
    shown: Mapping[str, str] = field(default_factory=dict)
    kinds: tuple[str, ...] = ()
    when: str = ""

    @property
    def whole(self) -> bool:
        """Whether it is one file of the whole run."""
        return "{" not in self._template

    @property
    def columns(self) -> pa.Schema:
        """The schema of its files, with the layer and head that parts of a head are given."""
        placing = [column for column in columns_at(self._template) if column.name not in self.schema.names]
        return pa.schema([*placing, *self.schema])

    def path(self, shard: Shard | None = None) -> str:
        """Path of a file, before its hash is added to that of a part.

        Args:
            shard: whose part it is; None for a table of the whole run.
        """
        return self._template if shard is None else self._template.format_map(dict(self.fields(shard)))

    def belongs(self, shard: Shard) -> bool:
        """Whether a shard may write a part of it."""
        return not self.kinds or shard.kind in self.kinds

    @property
    def folder(self) -> str:
        """The first part of its path, which names it on disk: `topk`, or `heads` of `heads.parquet`."""
        return self._template.partition("/")[0].removesuffix(".parquet")

    @property
    def glob(self) -> str:
        """What matches all of its files: `topk/**/*.parquet`."""
        if self.whole:
            return self._template
        folder, _, rest = self._template.partition("/")
        return f"{folder}/{'**/' if '/' in rest else ''}*.parquet"

    @property
    def pattern(self) -> str:
        """Its path as the docs write it: `topk/L1H5/part-*.parquet`."""
        letters = {"layer": "1", "head": "5", "part": "*", **self.shown}
        return re.sub(r"\{(\w+)[^}]*\}", lambda found: letters.get(found[1], found[1][0].upper()), self._template)

    @property
    def _template(self) -> str:
        return self.file or f"{self.name}.parquet"
