"""Fields of Arrow schemas; each says its unit and shape in its metadata."""

from __future__ import annotations

import pyarrow as pa


def field(
    name: str, kind: pa.DataType, what: str, *, unit: str = "", shape: str = "scalar", nullable: bool = False
) -> pa.Field:
    """A field that says what it holds.

    Args:
        name: of the column.
        kind: its Arrow type.
        what: one sentence.
        unit: of the values; none for names and pure numbers.
        shape: of one value.
        nullable: whether a value may be missing.
    """
    metadata = {"description": what, "unit": unit, "shape": shape}
    return pa.field(name, kind, nullable=nullable, metadata={k: v for k, v in metadata.items() if v})
