"""`submit communities`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from qkatlas.jobs.cli.options import SessionOptions, frequency_options, session_options

if TYPE_CHECKING:
    from qkatlas.jobs.inputs.frequencies import Frequencies

_MOST_FREQUENT = 3000
"""As many as the published map shows."""


@click.command("communities")
@click.argument("run_name", metavar="RUN")
@click.option(
    "--neighbours",
    type=int,
    default=8,
    show_default=True,
    metavar="K",
    help="Best keys that a token is linked to, itself left out.",
)
@click.option(
    "--symmetrise",
    default="union",
    show_default=True,
    help="union (a link either way is an edge), mutual (both ways) or directed.",
)
@click.option(
    "--quality",
    default="rb",
    show_default=True,
    help="What Leiden maximises: modularity, rb (configuration model with resolution) or cpm.",
)
@click.option(
    "--resolution",
    type=float,
    default=None,
    metavar="GAMMA",
    help="The higher, the smaller the communities; not for modularity.  [default: 1.5 for rb]",
)
@click.option(
    "--restarts",
    type=int,
    default=10,
    show_default=True,
    metavar="N",
    help="Times that Leiden is run; the best is kept.",
)
@frequency_options(default=_MOST_FREQUENT)
@click.option(
    "--export",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FILE",
    help="Write the graph to this file too, as GraphML; only an earlier graph is replaced.",
)
@click.option("--gpus", type=click.IntRange(0, 0), default=0, metavar="0", help="None: Leiden runs on CPUs.")
@session_options
def communities(
    run_name: str, neighbours: int, symmetrise: str, quality: str, resolution: float | None, restarts: int,
    frequencies: Frequencies | None, export: Path | None, options: SessionOptions,
) -> int:  # fmt: skip
    """Find the communities of a finished full-vocab RUN: graph of nearest keys, Leiden, map."""
    import numpy as np

    from qkatlas.jobs.communities.graph_file import require_replaceable, write_graphml
    from qkatlas.jobs.communities.job import Communities, CommunitiesJob
    from qkatlas.jobs.full_vocab.answer import largest_communities
    from qkatlas.jobs.inputs.source import SourceRun
    from qkatlas.outputs.places.open import open_folder

    if export is not None:
        require_replaceable(export)
    with options.session() as session:
        source = SourceRun.open(open_folder(options.out), run_name)
        tokens = None
        if frequencies is not None:
            frequencies.require_inside(len(source.tokens))
            texts = source.texts()
            if texts is not None and (warning := frequencies.mismatch(texts)):
                session.progress.say(warning)
            tokens = np.array(sorted(frequencies.token_ids), np.int32)
        spec = Communities(
            source=source.run_id, neighbours=neighbours, symmetrise=symmetrise, quality=quality,
            resolution=resolution, restarts=restarts, seed=options.seed,
        )  # fmt: skip
        job = CommunitiesJob(spec, source, tokens)
        result = session.submit(job, opened="checking the source run", threads=1)
    if export is not None and not result.failures:
        write_graphml(export, result.run, source)
    tables = ["communities.parquet", "edges.parquet", "restarts.parquet", "memberships/**/*.parquet"]
    query = "communities.parquet", '.groupby("community").stability.describe()'
    return session.report(result, lambda: largest_communities(result.run, source), tables, query)
