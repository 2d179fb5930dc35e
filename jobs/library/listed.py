"""The runs in a folder, for a program."""

from __future__ import annotations

import os

from qkatlas.jobs.library.rows import html_table
from qkatlas.outputs.places.open import open_folder
from qkatlas.outputs.runs import store
from qkatlas.outputs.runs.listing import Listed

_COLUMNS = ("name", "state", "model", "head", "states", "date", "rows", "bytes")


class RunList(list[Listed]):
    """Runs with their job, model, head, states, date and size; a table in Jupyter."""

    def _repr_html_(self) -> str:
        rows = [["" if (value := getattr(run, name)) is None else str(value) for name in _COLUMNS] for run in self]
        return html_table(_COLUMNS, rows)


def runs(out: str | os.PathLike[str] = "runs") -> RunList:
    """The runs in a folder, finished or not, by name.

    Args:
        out: the folder of all runs, or its URI.

    Returns:
        What each says of itself; `qkatlas.open(one.folder)` opens it.

    Raises:
        ValueError: if it is no folder, or an object store does not answer.
    """
    return RunList(Listed.of(run) for run in store.all_runs(open_folder(out)))
