"""`submit communities`."""

from __future__ import annotations

from pathlib import Path

import click

from jobs.commands.options import SessionOptions, session_options

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
@click.option(
    "--frequencies",
    type=click.Path(path_type=Path),
    default=None,
    metavar="CSV",
    help="Take the most frequent tokens of this file (token,id,count) only.  [default: the vocabulary]",
)
@click.option("--most-frequent", type=int, default=None, metavar="N", help="How many of them.  [default: 3000]")
@click.option(
    "--export",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FILE",
    help="Write the graph to this file too, as GraphML.",
)
@click.option("--gpus", type=click.IntRange(0, 0), default=0, metavar="0", help="None: Leiden runs on CPUs.")
@session_options
def communities(
    run_name: str, neighbours: int, symmetrise: str, quality: str, resolution: float | None, restarts: int,
    frequencies: Path | None, most_frequent: int | None, export: Path | None, options: SessionOptions,
) -> int:  # fmt: skip
    """Find the communities of a finished full-vocab RUN: graph of nearest keys, Leiden, map."""
    from jobs import frequencies as frequency_file
    from jobs.answer import largest_communities
    from jobs.communities import Communities, CommunitiesJob
    from jobs.graph_file import write_graphml
    from jobs.session import local_folder
    from jobs.source import SourceRun

    if most_frequent is not None and frequencies is None:
        raise ValueError(f"--most-frequent {most_frequent} needs the counts; give them with --frequencies CSV")
    if most_frequent is not None and most_frequent < 1:
        raise ValueError(f"--most-frequent {most_frequent} is below 1; choose 1 or more")
    if export is not None and not export.parent.is_dir():
        raise ValueError(f"--export {export} is in no folder; make {export.parent} first")
    with options.session() as session:
        source = SourceRun.open(local_folder(options.out), run_name)
        tokens = (
            None if frequencies is None else frequency_file.most_frequent(frequencies, most_frequent or _MOST_FREQUENT)
        )
        spec = Communities(
            source=source.run_id, neighbours=neighbours, symmetrise=symmetrise, quality=quality,
            resolution=resolution, restarts=restarts, seed=options.seed,
        )  # fmt: skip
        job = CommunitiesJob(spec, source, tokens)
        result = session.submit(job, opened="checking the source run", threads=1)
    if export is not None and not result.failures:
        write_graphml(export, result.run, source)
    tables = ["communities.parquet", "edges.parquet", "restarts.parquet", "memberships/**/*.parquet"]
    query = 'pandas.read_parquet({communities}).groupby("community").stability.describe()'
    return session.report(result, lambda: largest_communities(result.run, source), tables, query)
