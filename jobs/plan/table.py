"""How large the tables of a run become on disk."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

_FLOAT32, _FLOAT64, _INT32, _TEXT = 3.4, 8.0, 3.4, 8.1
"""Bytes a value took in the planted full-size runs of 21 November 2026 (zstd; numbers plainly, ids in a dictionary)."""

FILE_BYTES = 2500
"""Bytes of a file beside its values: footer, schema, descriptions of the columns."""


@dataclass(frozen=True, kw_only=True)
class PlannedTable:
    """One table of a run."""

    name: str
    files: int
    rows: int
    """Of all files together."""
    schema: pa.Schema
    repeat: float = 1.0
    """Bytes of an id in a list over the bits of all ids, where some ids are listed more often than others."""

    def bytes(self, vocab_size: int) -> float:
        """Estimated size on disk.

        Args:
            vocab_size: V, which decides how many bits an id takes.
        """
        if not self.files:
            return 0.0
        rows = self.rows / self.files
        columns = (_column(field.type, rows, vocab_size, self.repeat) for field in self.schema)
        return self.files * (FILE_BYTES + sum(columns))


def _column(kind: pa.DataType, rows: float, vocab_size: int, repeat: float) -> float:
    if pa.types.is_fixed_size_list(kind):
        # Ids of keys repeat: the dictionary keeps each once, and the values as bits.
        per_item = repeat * (vocab_size - 1).bit_length() / 8 if kind.value_type == pa.int32() else _FLOAT32
        return rows * float(kind.list_size) * per_item
    per_value = {pa.float32(): _FLOAT32, pa.int32(): _INT32, pa.float64(): _FLOAT64, pa.bool_(): 0.0}
    return rows * per_value.get(kind, _TEXT)
