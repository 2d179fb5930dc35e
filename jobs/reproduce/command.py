"""`submit reproduce`."""

from __future__ import annotations

from pathlib import Path

import click

from qkatlas.jobs.cli.options import InputFile, RunOptions, run_options


@click.command("reproduce")
@click.option(
    "--frequencies",
    type=InputFile(),
    default=None,
    metavar="CSV",
    help="Frequent tokens of the model, columns token,id,count.  [default: GPT-2's, for models with its vocabulary]",
)
@run_options
def reproduce(frequencies: Path | None, options: RunOptions) -> int:
    """Compare a model with the published figures of GPT-2 small's L1H5: one row and verdict for each."""
    from qkatlas.jobs.inputs.frequencies import Frequencies
    from qkatlas.jobs.reproduce.answer import verdicts
    from qkatlas.jobs.reproduce.job import Reproduce, ReproduceJob, choose_tokens
    from qkatlas.jobs.reproduce.published import facts
    from qkatlas.jobs.reproduce.sources import source_jobs

    published = facts()
    given = None if frequencies is None else Frequencies.read(frequencies)
    tables = ["reproduction.parquet", "notebook.parquet", "prompt_scores/*.parquet"]
    query = "reproduction.parquet", ".verdict.value_counts()"
    with options.session() as session:
        opened = options.open_model(session)
        tokens = choose_tokens(published, opened, given)
        vocabulary = opened.vocabulary
        if given is not None and vocabulary.has_tokenizer and (warning := given.mismatch(vocabulary.texts())):
            session.progress.say(warning)
        job = ReproduceJob(Reproduce(tokens=tokens, seed=options.seed), published, opened)
        if dropped := job.drawn.dropped():
            session.progress.say(dropped)
        for name, source in source_jobs(published, opened, tokens, job.runs, seed=options.seed):
            session.progress.say(f"run {len(job.runs) + 1}: {name}")
            result = session.submit(source, opened="preparing" if job.runs else "opening the model")
            if result.failures:
                return session.report(result, lambda: "", [], query)
            job.runs[name] = result.run
        session.progress.say("the comparison, and what no other job computes")
        result = session.submit(job, opened="preparing")
    return session.report(result, lambda: verdicts(result.run), tables, query)
