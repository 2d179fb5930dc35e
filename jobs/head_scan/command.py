"""`submit head-scan`."""

from __future__ import annotations

from pathlib import Path

import click

from qkatlas.jobs.cli.options import RunOptions, prompt_options, read_category_words, run_options, scoring_options


@click.command("head-scan")
@click.option("--layers", default=None, metavar="LIST", help="Layers, such as 0-3,7.  [default: all]")
@click.option(
    "--heads",
    default=None,
    metavar="LIST",
    help="Heads of these layers, such as 0-5, or names such as L1H5,L4H11.  [default: all]",
)
@scoring_options(top_k=10)
@prompt_options
@run_options
def head_scan(
    layers: str | None,
    heads: str | None,
    top_k: int,
    states: str,
    scores: str,
    prompts: int,
    length: int | None,
    categories: Path | None,
    options: RunOptions,
) -> int:
    """Scan every head: self statistics, kin and spectrum over the whole vocabulary, and behaviour on prompts."""
    from qkatlas.jobs.full_vocab.answer import most_suppressing
    from qkatlas.jobs.head_scan.job import HeadScan, HeadScanJob, choose_heads

    with options.session() as session:
        opened = options.open_model(session)
        names = choose_heads(layers, heads, opened)
        spec = HeadScan(
            heads=names,
            states=states,
            scores=scores,
            top_k=top_k,
            prompts=prompts,
            length=length,
            categories=read_category_words(categories),
            seed=options.seed,
        )
        job = HeadScanJob(spec, opened)
        if dropped := job.drawn.dropped():
            session.progress.say(dropped)
        result = session.submit(job)
    tables = ["heads.parquet", "spectrum.parquet", "topk/**/*.parquet", "self/**/*.parquet"]
    query = "heads.parquet", '.nlargest(10, "suppression_index_mean")'
    return session.report(result, lambda: most_suppressing(result.run), tables, query)
