"""The graph of a communities run as GraphML, which Gephi, Cytoscape and networkx open."""

from __future__ import annotations

from pathlib import Path

import igraph
import numpy as np
import pyarrow.parquet as pq

from jobs.source import SourceRun
from outputs.run import Run


def require_free(file: Path) -> None:
    """Check that writing a graph there destroys nothing but a graph.

    Args:
        file: where to write.

    Raises:
        ValueError: if there is no folder, it is a run's, or something else is there.
    """
    if not file.parent.is_dir():
        raise ValueError(f"--export {file} is in no folder; make {file.parent} first")
    if any((folder / "manifest.json").exists() for folder in file.resolve().parents):
        raise ValueError(f"--export {file} lies in a run, whose files are its own; choose another folder")
    if file.exists():
        begins = b""
        if file.is_file():
            with file.open("rb") as stream:
                begins = stream.read(200)
        if b"<graphml" not in begins:
            raise ValueError(
                f"--export {file} is no GraphML and is left alone; choose another file, or remove it first"
            )


def write_graphml(file: Path, run: Run, source: SourceRun) -> None:
    """Write the graph with the columns of its tables and the tokens' text as attributes.

    Args:
        file: where to write.
        run: a finished communities run.
        source: the run it goes on from.

    Raises:
        ValueError: if the file cannot be written.
    """
    tokens, edges = (pq.read_table(run.folder / f"{name}.parquet") for name in ("communities", "edges"))
    ids = tokens["token_id"].to_numpy()
    ends = np.stack([edges[name].to_numpy() for name in ("source_id", "target_id")], axis=1)
    graph = igraph.Graph(
        n=len(ids),
        edges=np.searchsorted(ids, ends),
        directed=_is_directed(run),
        edge_attrs={"weight": edges["weight"].to_pylist()},
        vertex_attrs={"text": source.tokens["text"].take(ids).to_pylist()}
        | {name: values for name, values in tokens.to_pydict().items() if tokens[name].null_count == 0},
    )
    whole = file.with_name(f".{file.name}.tmp")
    try:
        graph.write_graphml(str(whole))
        whole.replace(file)
    except OSError as error:
        whole.unlink(missing_ok=True)
        raise ValueError(f"--export {file} cannot be written ({error.strerror or error}); name another file") from error


def _is_directed(run: Run) -> bool:
    manifest = run.manifest()
    return manifest is not None and manifest["spec"]["symmetrise"] == "directed"
