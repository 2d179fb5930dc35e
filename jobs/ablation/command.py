"""`submit ablation`."""

from __future__ import annotations

from pathlib import Path

import click
from qkatlas.jobs.cli.options import InputFile, RunOptions, prompt_options, read_category_words, run_options


@click.command("ablation")
@click.option(
    "--targets",
    default=None,
    metavar="LIST",
    help="Heads to measure, and layers of them, such as L1H5,L4.  [default: every head]",
)
@click.option(
    "--layers",
    default=None,
    metavar="LIST",
    help="Layers to ablate, such as 0-3.  [default: all; with --targets those below the last]",
)
@click.option("--kind", default="mean", show_default=True, help="What replaces an output: mean, zero or resample.")
@click.option(
    "--loss/--no-loss",
    default=True,
    show_default=True,
    help="Next-token loss too: all layers and the unembedding for every component.",
)
@click.option(
    "--text",
    type=InputFile(),
    default=None,
    metavar="FILE",
    help="Text to take the loss on, in windows of --length tokens after BOS.  [default: the prompts]",
)
@click.option("--head", default=None, help="Head of the closing table.  [default: the one with the lowest score]")
@prompt_options
@run_options
def ablation(
    targets: str | None,
    layers: str | None,
    kind: str,
    loss: bool,
    text: Path | None,
    head: str | None,
    prompts: int,
    length: int | None,
    categories: Path | None,
    options: RunOptions,
) -> int:
    """Ablate every component and every head, and measure the heads above: what does a behaviour rest on?"""
    from qkatlas.jobs.ablation.answer import causes
    from qkatlas.jobs.ablation.choice import choose_layers, choose_targets
    from qkatlas.jobs.ablation.job import Ablation, AblationJob
    from qkatlas.pipeline.models.head import Head

    shown = None if head is None else Head.parse(head)
    with options.session() as session:
        opened = options.open_model(session)
        names = choose_targets(targets, opened)
        if shown is not None and str(shown) not in names:
            raise ValueError(f"--head {head} is not among the measured heads; name one that --targets names")
        spec = Ablation(
            targets=names,
            layers=choose_layers(layers, names if targets else None, opened),
            kind=kind,
            prompts=prompts,
            length=length,
            categories=read_category_words(categories),
            loss=loss,
            text=_read_text(text),
            seed=options.seed,
        )
        job = AblationJob(spec, opened)
        if dropped := job.drawn.dropped():
            session.progress.say(dropped)
        result = session.submit(job)
    tables = ["ablation.parquet", *(["losses.parquet"] if loss else []), "prompt_scores/**/*.parquet"]
    query = "ablation.parquet", '.nlargest(10, "delta")'
    return session.report(result, lambda: causes(result.run, shown), tables, query)


def _read_text(text: Path | None) -> str | None:
    """The content of `--text`; None where it was not given.

    Raises:
        ValueError: if the file cannot be read.
    """
    if text is None:
        return None
    try:
        return text.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"--text {text} cannot be read ({reason}); give a file of UTF-8 text") from error
