"""`submit similarity`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from qkatlas.jobs.cli.options import RunOptions, form_options, frequency_options, run_options

if TYPE_CHECKING:
    from qkatlas.jobs.inputs.frequencies import Frequencies


@click.command("similarity")
@click.option("--head", default="L1H5", show_default=True, help="The head: L<layer>H<head>, from 0.")
@click.option("--bins", type=int, default=200, show_default=True, metavar="N", help="Bins of cosine from -1 to 1.")
@frequency_options(default=None)
@form_options
@run_options
def similarity(
    head: str,
    bins: int,
    frequencies: Frequencies | None,
    states: str,
    scores: str,
    options: RunOptions,
) -> int:
    """Score minus self score against cosine similarity, over all pairs of tokens."""
    from qkatlas.jobs.similarity.answer import similarity_curve
    from qkatlas.jobs.similarity.job import Similarity, SimilarityJob

    with options.session() as session:
        opened = options.open_model(session)
        vocabulary = opened.vocabulary
        if frequencies is not None:
            frequencies.require_inside(len(vocabulary.spellings))
            if vocabulary.has_tokenizer and (warning := frequencies.mismatch(vocabulary.texts())):
                session.progress.say(warning)
        tokens = None if frequencies is None else frequencies.token_ids
        spec = Similarity(head=head, states=states, scores=scores, bins=bins, tokens=tokens)
        result = session.submit(SimilarityJob(spec, opened))
    tables = ["similarity.parquet", "histogram/*.parquet"]
    query = "similarity.parquet", '.query("count > 0")'
    return session.report(result, lambda: similarity_curve(result.run), tables, query)
