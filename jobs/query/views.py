"""The tables of a run as views of DuckDB: read only, and of this run only.

DuckDB never opens a file: Arrow reads the parts that the manifest lists, from a disk or an object store, as far as a
query needs them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

from qkatlas.outputs.runs.reader import open_table, read_whole, table_names
from qkatlas.outputs.runs.run import Run

if TYPE_CHECKING:
    import duckdb

_CLOSED = {
    "enable_external_access": "false",  # no file, no network, no extension
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",  # no variable of the program as a table
    "temp_directory": "",
}

_MACROS = (
    # A text as people write it: exactly, or with a middle dot for the leading space.
    """CREATE MACRO token_id(name) AS (
        SELECT min(token_id) FROM tokens
        WHERE NOT is_special AND text = coalesce(
            (SELECT min(text) FROM tokens WHERE NOT is_special AND text = name), replace(name, '·', ' ')))""",
    "CREATE MACRO token(id) AS (SELECT min(text) FROM tokens WHERE token_id = id)",
    """CREATE MACRO with_token(relation) AS TABLE
        SELECT tokens.text AS token, rows.* FROM query_table(relation) AS rows LEFT JOIN tokens USING (token_id)""",
)

_PAIRS = """CREATE VIEW pairs AS
    SELECT listed.layer, listed.head, listed.token_id, queries.text AS token, listed.place::INTEGER AS place,
        listed.key_id, keys.text AS key, listed.score
    FROM (
        SELECT layer, head, token_id, unnest(range(1, len(key_ids) + 1)) AS place, unnest(key_ids) AS key_id,
            unnest(scores) AS score
        FROM (SELECT layer, head, token_id, key_ids::INTEGER[] AS key_ids, scores::FLOAT[] AS scores FROM topk)
    ) AS listed
    LEFT JOIN tokens AS queries ON queries.token_id = listed.token_id
    LEFT JOIN tokens AS keys ON keys.token_id = listed.key_id"""


class MissingPackageError(ImportError, ValueError):
    """A package is not installed that only some of the readers need."""

    @classmethod
    def of(cls, package: str, purpose: str) -> MissingPackageError:
        """What to say of it.

        Args:
            package: as pip knows it.
            purpose: what needs it.
        """
        return cls(f"{purpose} needs {package}, which is not installed; bring it with: pip install {package}")


def connect(run: Run) -> duckdb.DuckDBPyConnection:
    """A database in memory with a view for each table of a run, and nothing else in reach.

    Beside the tables, each with its columns layer and head first, there are of a run with tokens the macros
    `token_id(text)`, `token(id)` and `with_token(table)`, and of one with `topk` the view `pairs`: one row for each
    kept key, with both texts.

    Args:
        run: a finished run.

    Returns:
        The connection; closed by the caller, or when nothing refers to it.

    Raises:
        MissingPackageError: if DuckDB is not installed.
        ValueError: if the run is not finished.
    """
    try:
        import duckdb
    except ImportError as error:
        raise MissingPackageError.of("duckdb", "SQL") from error
    names = sorted(table_names(run))
    if not names:
        raise ValueError(f"run {run.folder.name} is not finished; submit the same request again to finish it")
    connection = duckdb.connect(":memory:", config=dict(_CLOSED))
    sources = {name: read_whole(run, name) if name == "tokens" else open_table(run, name) for name in names}
    for name, source in sources.items():
        connection.register(name, source)
    if "tokens" in names and {"text", "is_special"} <= set(sources["tokens"].schema.names):
        for macro in _MACROS:
            connection.execute(macro)
        if "topk" in names:
            connection.execute(_PAIRS)
    connection.execute("SET lock_configuration = true")
    return connection


def ask(connection: duckdb.DuckDBPyConnection, query: str) -> duckdb.DuckDBPyRelation:
    """Ask one question.

    Args:
        connection: as `connect` gives it.
        query: one SELECT, or what only describes: EXPLAIN, DESCRIBE, SHOW, SUMMARIZE.

    Returns:
        The answer, not computed yet; it keeps the connection.

    Raises:
        ValueError: if it is anything else, or DuckDB cannot answer it.
    """
    import duckdb

    try:
        statements = connection.extract_statements(query)
    except duckdb.Error as error:
        raise refusal(error) from error
    kinds = [statement.type.name for statement in statements]
    if len(kinds) != 1 or kinds[0] not in ("SELECT", "EXPLAIN", "SHOW"):
        given = ", ".join(kinds) or "nothing"
        raise ValueError(f"sql takes one question that reads, such as SELECT; this is {given}, and a run never changes")
    try:
        relation: duckdb.DuckDBPyRelation | None = connection.sql(query)
    except duckdb.Error as error:
        raise refusal(error) from error
    assert relation is not None, "a statement that reads has an answer"
    return relation


def rows(relation: duckdb.DuckDBPyRelation) -> Iterator[pa.RecordBatch]:
    """The rows of an answer, a batch at a time.

    Raises:
        ValueError: if DuckDB finds on the way that it cannot compute them.
    """
    import duckdb

    try:
        yield from relation.to_arrow_reader()
    except (duckdb.Error, pa.ArrowInvalid) as error:
        raise refusal(error) from error


def printed(relation: duckdb.DuckDBPyRelation) -> str:
    """An answer as people read it: a drawn table of its first and last rows.

    Raises:
        ValueError: if DuckDB cannot compute them.
    """
    import duckdb

    try:
        return str(relation)
    except duckdb.Error as error:
        raise refusal(error) from error


def refusal(error: Exception) -> ValueError:
    """What DuckDB says of a query, in one line."""
    said = " ".join(str(error).partition("\n\nLINE")[0].split())
    return ValueError(f"sql: {said}; SHOW TABLES lists the tables, DESCRIBE TABLE their columns")
