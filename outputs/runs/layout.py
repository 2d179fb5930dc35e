"""Where the parts of a head lie in a run's folder, and the columns that say the same inside them.

The folders are called `L1H5`, not `layer=1/head=5` as in runs of older versions: pandas and pyarrow take hive folders
for dictionaries and refuse int32 columns of the same names beside them, so that `pandas.read_parquet(folder)` fails.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import pyarrow as pa

from qkatlas.outputs.schemas.field import field

OF_HEAD = "L{layer}H{head}/part-{part:05d}.parquet"
"""Path below a table's folder of a part of one head."""

OF_LAYER = "L{layer}/part-{part:05d}.parquet"
"""The same of what a layer's heads share."""

COLUMNS = {
    "layer": field("layer", pa.int32(), "layer, from 0"),
    "head": field("head", pa.int32(), "place of the head in its layer, from 0"),
}
"""What each file of one head has in front of its other columns; one of a layer has the first."""

_PLACE = re.compile(r"L([0-9]+)(?:H([0-9]+))?")
_HIVE = re.compile(r"(layer|head)=([0-9]+)")


def place_of(path: str) -> dict[str, int]:
    """What the folders of a part say of its place.

    Args:
        path: of the part in the run's folder, in this layout or the older one.

    Returns:
        layer and head, or the layer of what its heads share, or nothing.
    """
    folders = path.split("/")[1:-1]
    if len(folders) == 1 and (found := _PLACE.fullmatch(folders[0])):
        return {name: int(number) for name, number in zip(COLUMNS, found.groups(), strict=True) if number is not None}
    return {found[1]: int(found[2]) for folder in folders if (found := _HIVE.fullmatch(folder))}


def is_older(path: str) -> bool:
    """Whether a part lies in folders `layer=L` of a run that an older version began."""
    return any(_HIVE.fullmatch(folder) for folder in path.split("/")[1:-1])


def older(path: str) -> str:
    """Where an older version puts a part, so that a run it began is finished as one table.

    Args:
        path: in this layout.
    """
    place = place_of(path)
    if not place:
        return path
    table, *_, name = path.split("/")
    return "/".join([table, *(f"{key}={number}" for key, number in place.items()), name])


def placed(table: pa.Table, path: str) -> pa.Table:
    """A part's rows with int32 columns that say of which layer and head they are, in front of the others.

    Args:
        table: the rows; columns of these names stay as they are.
        path: of the part; in the older layout folders say it, and columns would be in their way.
    """
    if is_older(path):
        return table
    missing = {name: number for name, number in place_of(path).items() if name not in table.column_names}
    for number, (name, value) in enumerate(missing.items()):
        table = table.add_column(number, COLUMNS[name], pa.repeat(pa.scalar(value, pa.int32()), len(table)))
    return table


def columns_at(file: str) -> Iterable[pa.Field]:
    """The columns that parts get by `placed`.

    Args:
        file: path of parts with the fields `{layer}` and `{head}`, or without.
    """
    return [column for name, column in COLUMNS.items() if f"/L{{{name}}}" in file or f"H{{{name}}}/" in file]
