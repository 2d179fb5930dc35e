"""A finished run, opened for a program: its tables, its tokens, its report."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from qkatlas.jobs.library.rows import Rows, html_table
from qkatlas.jobs.query import views
from qkatlas.outputs.places.open import open_folder
from qkatlas.outputs.runs import store
from qkatlas.outputs.runs.listing import Listed
from qkatlas.outputs.runs.reader import list_matrix, read_rows, read_whole, table_names
from qkatlas.outputs.runs.run import Run
from qkatlas.pipeline.text.categories import KNOWN_WORDS
from qkatlas.pipeline.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    import duckdb
    import pandas
    import polars

_WORDS, _KEYS = 6, 8
"""Known words that are shown, and keys of each."""


class OpenedRun:
    """A finished run on a disk or in an object store; tables are read when they are asked for, and checked then.

    Args:
        run: the run.

    Raises:
        ValueError: if it is not finished, or its manifest is damaged.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        if run.manifest() is None:
            raise ValueError(f"run {run.folder.name} is not finished; submit the same request again to finish it")

    @property
    def name(self) -> str:
        """Its folder's name, such as `full-vocab-4de99a74dbbd`."""
        return self._run.folder.name

    @property
    def folder(self) -> str:
        """Where it lies: a path or a URI."""
        return str(self._run.folder)

    @cached_property
    def listed(self) -> Listed:
        """Job, model, head, states, date, size, run id, weights' hash and settings."""
        return Listed.of(self._run)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that change results."""
        return self.listed.settings

    @property
    def tables(self) -> list[str]:
        """Names of its tables, such as `topk` and `tokens`."""
        return sorted(table_names(self._run))

    def table(self, name: str) -> pa.Table:
        """A whole table in Arrow, once its files are found to be those that were committed.

        Args:
            name: one of `tables`.

        Returns:
            Its rows; a table of heads has int32 columns `layer` and `head`, the first ones. Each field's unit and
            meaning are in its metadata; docs/tables.md lists them.

        Raises:
            ValueError: if there is no such table, or a file of it is damaged.
        """
        found = read_whole(self._run, name)
        first = [key for key in ("layer", "head") if key in found.column_names]
        return found.select([*first, *(column for column in found.column_names if column not in first)])

    def pandas(self, name: str) -> pandas.DataFrame:
        """A whole table as a DataFrame of pandas; see `table`.

        Raises:
            ImportError: if pandas is not installed.
            ValueError: as for `table`.
        """
        try:
            import pandas  # noqa: F401 - Arrow imports it too, and says less where it is missing
        except ImportError as error:
            raise views.MissingPackageError.of("pandas", ".pandas()") from error
        frame: pandas.DataFrame = self.table(name).to_pandas()
        return frame

    def polars(self, name: str) -> polars.DataFrame:
        """A whole table as a DataFrame of Polars; see `table`.

        Raises:
            ImportError: if Polars is not installed.
            ValueError: as for `table`.
        """
        try:
            import polars
        except ImportError as error:
            raise views.MissingPackageError.of("polars", ".polars()") from error
        frame = polars.from_arrow(self.table(name))
        assert isinstance(frame, polars.DataFrame), "a table has columns"
        return frame

    def sql(self, query: str) -> duckdb.DuckDBPyRelation:
        """Ask in SQL: each table is there by its name, and so are `pairs`, `token_id(text)` and `token(id)`.

        Args:
            query: one question that reads, such as a SELECT.

        Returns:
            A relation of DuckDB: `.df()`, `.pl()`, `.fetchall()`, `.show()`.

        Raises:
            ImportError: if DuckDB is not installed.
            ValueError: if DuckDB cannot answer it, or it does not only read.
        """
        return views.ask(views.connect(self._run), query)

    def token_id(self, token: str | int) -> int:
        """The id of a token.

        Args:
            token: its text, the leading space written in whatever way (`" red"`, `"·red"`, `"_red"`), `"#17"`, or an
                id.

        Raises:
            ValueError: if no token of the model is called so.
        """
        size = len(self._vocabulary.spellings)
        found = token if isinstance(token, int) else self._vocabulary.look_up(token)
        if found is None or not 0 <= found < size:
            near = self._vocabulary.find_word(token.strip()) if isinstance(token, str) else None
            hint = f"; there is {self._vocabulary.shown(near)!r}" if near is not None else ""
            raise ValueError(f"token {token!r} is none of the {size} tokens of {self.name}{hint}; or give an id")
        return found

    def topk(self, token: str | int, k: int | None = None) -> Rows:
        """The best keys of one token, in every head of the run.

        Args:
            token: as `token_id` takes it.
            k: keys of each head; None = all that the run keeps.

        Returns:
            One row a head and key, best first: layer, head, token_id, token, place (from 1), key_id, key, score (nats).

        Raises:
            ValueError: if there is no such token, or the run has no table `topk`.
        """
        token_id, vocabulary = self.token_id(token), self._vocabulary
        found = read_rows(self._run, "topk", [token_id])
        ids_RK, scores_RK = (list_matrix(found, name)[:, :k] for name in ("key_ids", "scores"))
        heads, kept = ids_RK.shape
        repeated = {name: found[name].to_numpy().repeat(kept) for name in ("layer", "head", "token_id")}
        columns = {
            **{name: pa.array(values, pa.int32()) for name, values in repeated.items()},
            "token": pa.array([vocabulary.text(token_id)] * (heads * kept)),
            "place": pa.array([*range(1, kept + 1)] * heads, pa.int32()),
            "key_id": pa.array(ids_RK.reshape(-1)),
            "key": pa.array([vocabulary.text(key) for key in ids_RK.reshape(-1).tolist()]),
            "score": pa.array(scores_RK.reshape(-1)),
        }
        return Rows(pa.table(columns))

    def self(self, token: str | int) -> Rows:
        """What every head of the run does with one token itself: score, rank, z.

        Args:
            token: as `token_id` takes it.

        Returns:
            One row a head: layer, head, token_id, token, then the columns of the table `self`.

        Raises:
            ValueError: if there is no such token, or the run has no table `self`.
        """
        token_id = self.token_id(token)
        found = read_rows(self._run, "self", [token_id])
        text = pa.array([self._vocabulary.text(token_id)] * len(found))
        first = ["layer", "head", "token_id", "token"]
        found = found.append_column("token", text)
        return Rows(found.select([*first, *(name for name in found.column_names if name not in first)]))

    def heads(self) -> Rows:
        """One row a head: the means of its statistics, its spectrum, its label.

        Raises:
            ValueError: if the run has no table `heads`, which a head scan writes.
        """
        if "heads" not in self.tables:
            raise ValueError(f"run {self.name} has no table 'heads'; a head scan has one: qkatlas.head_scan(model)")
        return Rows(self.table("heads"))

    def show(self) -> None:
        """Print what a person wants to see: the run in one line, its tables, and what well-known words attend to."""
        from rich.console import Console

        console = Console(highlight=False, soft_wrap=True)
        console.print(self.listed.line, markup=False)
        console.print(f"tables: {', '.join(self.tables)} in {self.folder}", markup=False)
        if (words := self._words()) is not None:
            console.print(words)
        elif "heads" in self.tables:
            print(self.heads())  # as wide as it is, on a narrow terminal too

    def report(self, file: str | os.PathLike[str] = "report.html") -> Path:
        """Write the run as one HTML page that opens offline.

        Args:
            file: where; only an earlier report is replaced.

        Returns:
            The file.

        Raises:
            ValueError: if something else is there, or no report shows such a run.
        """
        from qkatlas.jobs.report.content import Report
        from qkatlas.outputs.report import page

        place = Path(file)
        page.require_replaceable(place)
        title, blocks = Report.of([self._run], neighbours=10).content()
        page.write(place, page.render(title, blocks))
        return place

    def __repr__(self) -> str:
        return f"<{self.listed.line}>"

    def _repr_html_(self) -> str:
        """The run for Jupyter; names and tokens are data and never markup."""
        facts = self.listed
        named = {
            "model": facts.model, "head": facts.head, "states": facts.states, "finished": facts.date,
            "size": f"{facts.bytes / 1e6:.1f} MB, {facts.rows} rows", "folder": facts.folder,
            "tables": ", ".join(self.tables),
        }  # fmt: skip
        rows = [[name, value] for name, value in named.items() if value]
        words = self._words()
        shown = "" if words is None else words._repr_html_()
        return f"<div><b>{html.escape(self.name)}</b>{html_table(['', ''], rows)}{shown}</div>"

    def _words(self) -> Rows | None:
        """What some well-known words attend to, of a run of one head; None of another, or where no word is a token."""
        if not {"tokens", "topk", "self"} <= table_names(self._run):
            return None
        vocabulary = self._vocabulary
        forms = [vocabulary.find_word(word) for word in KNOWN_WORDS]
        ids = sorted({token for token in forms if token is not None}, key=forms.index)[:_WORDS]
        top, own = (read_rows(self._run, name, ids) for name in ("topk", "self"))
        if not ids or len(top) != len(ids):
            return None
        ranks = dict(zip(own["token_id"].to_pylist(), own["self_rank"].to_pylist(), strict=True))
        keys = dict(zip(top["token_id"].to_pylist(), top["key_ids"].to_pylist(), strict=True))
        listed = [", ".join(vocabulary.shown(key) for key in keys[token][:_KEYS]) for token in ids]
        return Rows(
            pa.table(
                {
                    "token": [vocabulary.text(token) for token in ids],
                    "own rank": pa.array([ranks[token] for token in ids], pa.int32()),
                    "attends most to": listed,
                }
            )
        )

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        """The model's tokens, from the run's own table."""
        if "tokens" not in self.tables:
            raise ValueError(f"run {self.name} has no table of tokens; look a token up in a run of its model")
        tokens = read_whole(self._run, "tokens")
        spellings = tuple(tokens["bytes"].to_pylist())
        return Vocabulary(spellings, tuple(tokens["is_special"].to_pylist()), any(one is not None for one in spellings))


def open_run(run: str | os.PathLike[str], *, out: str | os.PathLike[str] = "runs") -> OpenedRun:
    """Open a finished run.

    Args:
        run: its folder or URI, its name in `out`, the beginning of its name or id, `latest`, or `full-vocab-latest`.
        out: the folder of all runs, or its URI.

    Returns:
        The run.

    Raises:
        ValueError: if there is none, more than one fits, or it is not finished.
    """
    return OpenedRun(store.find(open_folder(out), os.fspath(run)))
