"""How large the tables of a run become on disk."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

DICTIONARY_VALUES = 1 << 18
"""4-byte values that Parquet's dictionary of a column holds; the values after that are written plainly."""

_FLOAT32_IN_DICTIONARY, _FLOAT32_PLAIN = 5.5, 3.7
_FLOAT64, _INT32, _TEXT = 8.9, 3.4, 8.1
"""Bytes a value took in the planted full-size runs of 21 November 2026 (zstd)."""

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

    def bytes(self, vocab_size: int) -> float:
        """Estimated size on disk.

        Args:
            vocab_size: V, which decides how many bits an id takes.
        """
        if not self.files:
            return 0.0
        rows = self.rows / self.files
        return self.files * (FILE_BYTES + sum(_column(field.type, rows, vocab_size) for field in self.schema))


def _column(kind: pa.DataType, rows: float, vocab_size: int) -> float:
    if pa.types.is_fixed_size_list(kind):
        values = rows * kind.list_size
        # Ids of keys repeat: the dictionary keeps each once, and the values as bits.
        return values * (vocab_size - 1).bit_length() / 8 if kind.value_type == pa.int32() else _floats(values)
    if kind == pa.float32():
        return _floats(rows)
    per_value = {pa.int32(): _INT32, pa.float64(): _FLOAT64, pa.bool_(): 0.0}
    return rows * per_value.get(kind, _TEXT)


def _floats(values: float) -> float:
    first = min(values, DICTIONARY_VALUES)
    return first * _FLOAT32_IN_DICTIONARY + (values - first) * _FLOAT32_PLAIN
