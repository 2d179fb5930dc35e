"""`submit full-vocab`."""

from __future__ import annotations

import click

from qkatlas.jobs.cli.options import RunOptions, run_options, scoring_options


@click.command("full-vocab")
@click.option("--head", default="L1H5", show_default=True, help="The head: L<layer>H<head>, from 0.")
@scoring_options(top_k=64)
@click.option("--shards", type=int, default=None, metavar="N", help="Pieces of work.  [default: 4096 tokens each]")
@run_options
def full_vocab(head: str, top_k: int, states: str, scores: str, shards: int | None, options: RunOptions) -> int:
    """Score every token against every token through one head: top-k keys and self statistics."""
    from qkatlas.jobs.full_vocab.answer import top_attended
    from qkatlas.jobs.full_vocab.job import FullVocab, FullVocabJob

    spec = FullVocab(head=head, top_k=top_k, states=states, scores=scores)
    with options.session() as session:
        opened = options.open_model(session)
        result = session.submit(FullVocabJob(spec, opened, shards=shards))
    tables = ["topk/**/*.parquet", "self/**/*.parquet", "tokens.parquet"]
    query = "self", '.nlargest(10, "self_gap")'
    return session.report(result, lambda: top_attended(result.run, opened), tables, query)
