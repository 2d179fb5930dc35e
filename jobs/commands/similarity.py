"""`submit similarity`."""

from __future__ import annotations

from pathlib import Path

import click

from jobs.commands.options import RunOptions, form_options, run_options


@click.command("similarity")
@click.option("--head", default="L1H5", show_default=True, help="The head: L<layer>H<head>, from 0.")
@click.option("--bins", type=int, default=200, show_default=True, metavar="N", help="Bins of cosine from -1 to 1.")
@click.option(
    "--frequencies",
    type=click.Path(path_type=Path),
    default=None,
    metavar="CSV",
    help="Take pairs of these tokens only: columns token,id,count.  [default: the whole vocabulary]",
)
@click.option("--top", type=int, default=None, metavar="N", help="The N most frequent of them.  [default: all]")
@form_options
@run_options
def similarity(
    head: str,
    bins: int,
    frequencies: Path | None,
    top: int | None,
    states: str,
    scores: str,
    options: RunOptions,
) -> int:
    """Score minus self score against cosine similarity, over all pairs of tokens."""
    from jobs.similarity import Frequencies, Similarity, SimilarityJob
    from jobs.similarity_answer import similarity_curve

    if top is not None and frequencies is None:
        raise ValueError(f"--top {top} needs --frequencies to choose from; give a CSV with columns token,id,count")
    with options.session() as session:
        opened = options.open_model(session)
        tokens = None
        if frequencies is not None:
            listed = Frequencies.read(frequencies, top, opened.checkpoint.architecture.vocab_size)
            tokens = listed.token_ids
            if warning := listed.mismatch(opened):
                session.progress.say(warning)
        spec = Similarity(head=head, states=states, scores=scores, bins=bins, tokens=tokens)
        result = session.submit(SimilarityJob(spec, opened))
    tables = ["similarity.parquet", "histogram/*.parquet"]
    query = 'pandas.read_parquet({folder} + "/similarity.parquet").query("count > 0")'
    return session.report(result, lambda: similarity_curve(result.run), tables, query)
