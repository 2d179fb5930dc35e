"""One head's tables of a finished run, read part by part and column by column: no torch, and nothing read twice.

Shapes: R rows, K keys kept of each token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import pyarrow as pa

from qkatlas.outputs.places.folder import side_by_side
from qkatlas.outputs.runs.layout import COLUMNS, place_of
from qkatlas.outputs.runs.part import DamagedPartError, Part, columns_of, footer, read_part
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.soundness import remedy
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.text.vocabulary import Vocabulary

Answer = TypeVar("Answer")

_LISTED = 12


@dataclass(frozen=True)
class HeadTables:
    """The tables of one head.

    Attributes:
        run: a finished run.
        head: the head.
        parts: of its tables, by the table's name.
    """

    run: Run
    head: Head
    parts: dict[str, tuple[Part, ...]]

    @classmethod
    def all(cls, run: Run) -> dict[Head, HeadTables]:
        """The tables of every head of a run, in order of the heads.

        Args:
            run: the run.

        Raises:
            ValueError: if it is not finished, or has no tables of tokens.
        """
        manifest = run.manifest()
        if manifest is None:
            raise ValueError(f"run {run.folder.name} is not finished; submit the same request again to finish it")
        of_heads: dict[Head, dict[str, list[Part]]] = {}
        for part in manifest.parts:
            place = place_of(part.path)
            if len(place) == len(COLUMNS):
                of_heads.setdefault(Head(*place.values()), {}).setdefault(part.path.partition("/")[0], []).append(part)
        if not any({"topk", "ov_topk"} & set(tables) for tables in of_heads.values()):
            job = manifest.request.job
            raise ValueError(f"run {run.folder.name} is of {job}; name a run of submit full-vocab or head-scan")
        whole = {part.path.removesuffix(".parquet"): (part,) for part in manifest.parts if "/" not in part.path}
        return {
            head: cls(run, head, {**whole, **{name: tuple(parts) for name, parts in of_heads[head].items()}})
            for head in sorted(of_heads)
        }

    @classmethod
    def open(cls, run: Run, head: str | None) -> HeadTables:
        """The tables of one head.

        Args:
            run: the run.
            head: its name; None where the run has one head.

        Raises:
            ValueError: if the run is not finished, has no tables of tokens, or the head is not among its heads.
        """
        heads = cls.all(run)
        listed = ", ".join(map(str, list(heads)[:_LISTED])) + (", ..." if len(heads) > _LISTED else "")
        if head is None and len(heads) > 1:
            raise ValueError(f"run {run.folder.name} has {len(heads)} heads; choose one with --head: {listed}")
        chosen = next(iter(heads)) if head is None else Head.parse(head)
        if chosen not in heads:
            raise ValueError(f"run {run.folder.name} has no head {chosen}; choose one of: {listed}")
        return heads[chosen]

    def __contains__(self, table: str) -> bool:
        return table in self.parts

    def columns(self, table: str, *names: str, of: Sequence[int] | None = None) -> tuple[np.ndarray, ...]:
        """Columns of a table: token ids [R], then each by its name, [R], or [R, K] of lists; null is NaN, or 0.

        Args:
            table: one of the tables with a row a token.
            names: of the columns.
            of: tokens that are wanted; files without any of them are left alone. None = all.

        Raises:
            ValueError: if a file is damaged.
        """
        parts = self.parts[table]
        if of is not None:
            parts = tuple(part for part in parts if self._may_hold(part, of))
        rows = self._read(parts, ["token_id", *names])
        return tuple(values_of(rows[name].combine_chunks()) for name in ("token_id", *names))

    def _may_hold(self, part: Part, tokens: Sequence[int]) -> bool:
        """Whether a file says of itself that it holds some of the tokens."""
        groups = self._answered(part, lambda: footer(self.run.folder, part))
        column = groups.schema.names.index("token_id")  # in front of the lists, whose columns are called otherwise
        for number in range(groups.num_row_groups):
            known = groups.row_group(number).column(column).statistics
            if known is None or not known.has_min_max or any(known.min <= token <= known.max for token in tokens):
                return True
        return False

    def _read(self, parts: Sequence[Part], names: Sequence[str]) -> pa.Table:
        def read(part: Part) -> pa.Table:
            return columns_of(self._answered(part, lambda: read_part(self.run.folder, part)), names)

        return pa.concat_tables(side_by_side(self.run.folder, read, parts))

    def _answered(self, part: Part, ask: Callable[[], Answer]) -> Answer:
        try:
            return ask()
        except (DamagedPartError, FileNotFoundError) as error:
            fault = str(error) if isinstance(error, DamagedPartError) else f"{part.path} is missing"
            raise ValueError(f"run {self.run.folder.name} is damaged: {fault}; {remedy(self.run, [fault])}") from error

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The tokens, as the run keeps them."""
        tokens = self._read(self.parts["tokens"], ["bytes", "is_special"])
        spellings = tuple(tokens["bytes"].to_pylist())
        return Vocabulary(
            spellings, tuple(tokens["is_special"].to_pylist()), any(spelling is not None for spelling in spellings)
        )


def values_of(column: pa.Array) -> np.ndarray:
    """A column as NumPy has it: lists of one length as a matrix; null is NaN, or 0 among whole numbers."""
    if pa.types.is_fixed_size_list(column.type):
        return values_of(column.flatten()).reshape(len(column), -1)
    if column.null_count == 0:
        return np.from_dlpack(column)  # `to_numpy` loads pandas where there is one, a third of the command's time
    filled = column.fill_null(0) if pa.types.is_integer(column.type) else column
    values: np.ndarray = filled.to_numpy(zero_copy_only=False)
    return values
