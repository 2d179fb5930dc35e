"""The graph of a communities run as GraphML, which Gephi, Cytoscape and networkx open."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import igraph
import numpy as np

from qkatlas.jobs.inputs.source import SourceRun
from qkatlas.outputs.places import target
from qkatlas.outputs.places.local_folder import write_whole
from qkatlas.outputs.runs.reader import read_whole
from qkatlas.outputs.runs.run import Run

_BEGINNING = 200
"""Bytes within which a GraphML file names its root element."""


def require_replaceable(file: Path) -> None:
    """Check that a graph can be written to a file and destroys nothing but an earlier graph.

    Args:
        file: where it shall be.

    Raises:
        ValueError: if its folder is missing or belongs to a run, or something else is there.
    """
    if not file.parent.is_dir():
        raise ValueError(f"--export {file} is in no folder; make {file.parent} first")
    target.require_replaceable(file, "--export", mark=b"<graphml", within=_BEGINNING, kind="GraphML file")


def write_graphml(file: Path, run: Run, source: SourceRun) -> None:
    """Write the graph with the columns of its tables and the tokens' text as attributes, at once.

    Args:
        file: where to write; an earlier file is replaced.
        run: a finished communities run.
        source: the run it goes on from.

    Raises:
        ValueError: if the file cannot be written.
    """
    tokens, edges = (read_whole(run, name) for name in ("communities", "edges"))
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
    try:
        with TemporaryDirectory() as folder:
            written = Path(folder) / "graph.graphml"
            graph.write_graphml(str(written))
            write_whole(file, written.read_bytes())
    except OSError as error:
        raise ValueError(f"--export {file} cannot be written ({error.strerror or error}); name another file") from error


def _is_directed(run: Run) -> bool:
    manifest = run.manifest()
    return manifest is not None and manifest.request.spec["symmetrise"] == "directed"
