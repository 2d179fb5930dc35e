"""`submit steering`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qkatlas.jobs.cli.options import InputFile, RunOptions, run_options, scoring_options

if TYPE_CHECKING:
    from qkatlas.jobs.inputs.model import Model
    from qkatlas.jobs.steering.spec import Steering


@click.command("steering")
@click.option("--head", default="L1H5", show_default=True, help="The head: L<layer>H<head>, from 0.")
@click.option("--methods", default=None, metavar="LIST", help="Of eigen, singular, gradient.  [default: all]")
@click.option(
    "--alpha",
    default=None,
    metavar="LIST",
    help="Factors on the negative eigenvalues.  [default: 1.5,1.25,1.1,1,0.75,0.5,0.25,0,-0.5,-1]",
)
@click.option("--skew", default="keep", show_default=True, help="keep or drop the skew part beside eigenvalues.")
@click.option("--eigenvalues", default="all", show_default=True, help="all 2H, or the top H by magnitude.")
@click.option("--draws", type=int, default=2, show_default=True, metavar="N", help="Random controls for each alpha.")
@click.option("--rank", default=None, metavar="LIST", help="Singular values to scale.  [default: 1,4,16]")
@click.option("--scale", default=None, metavar="LIST", help="Factors on these.  [default: 0,0.5,2]")
@click.option(
    "--step",
    default=None,
    metavar="LIST",
    help="Steps along the self score's gradient, relative to the weights.  [default: -0.5,-0.2,0.2,0.5]",
)
@click.option("--move", default="keys", show_default=True, help="What follows the gradient: queries, keys or both.")
@click.option("--sample", type=int, default=256, show_default=True, metavar="N", help="Rows for rank correlations.")
@click.option(
    "--group",
    type=InputFile(),
    default=None,
    metavar="FILE",
    help="Tokens of the heat maps, one a line.  [default: the published group]",
)
@click.option("--in-model", is_flag=True, help="Also run prompts with the steered scores inside the model.")
@click.option("--prompts", type=int, default=32, show_default=True, metavar="N", help="Prompts of --in-model.")
@click.option(
    "--length",
    type=int,
    default=None,
    metavar="N",
    help="Words in a prompt.  [default: 64, or as many as the model reads]",
)
@scoring_options(top_k=10)
@run_options
def steering(options: RunOptions, **given: Any) -> int:
    """Steer one head: scale its negative eigenvalues or singular values, or follow the gradient of its self score."""
    from qkatlas.jobs.steering.answer import dose_response
    from qkatlas.jobs.steering.job import SteeringJob

    with options.session() as session:
        opened = options.open_model(session)
        spec = _spec(opened, seed=options.seed, **given)
        result = session.submit(SteeringJob(spec, opened))
    in_model = ["in_model.parquet"] if spec.in_model else []
    tables = ["steering.parquet", *in_model, "heatmap.parquet", "steered/**/*.parquet", "samples.parquet"]
    query = "steering.parquet", ".T"
    return session.report(result, lambda: dose_response(result.run), tables, query)


def _spec(
    model: Model,
    *,
    methods: str | None,
    alpha: str | None,
    rank: str | None,
    scale: str | None,
    step: str | None,
    group: Path | None,
    **others: Any,
) -> Steering:
    from qkatlas.jobs.steering.spec import Steering, integers, numbers, read_group

    lists: dict[str, Any] = {
        "methods": None if methods is None else tuple(name.strip() for name in methods.split(",")),
        "alphas": None if alpha is None else numbers("--alpha", alpha),
        "ranks": _ranks_of(model) if rank is None else integers("--rank", rank),
        "scales": None if scale is None else numbers("--scale", scale),
        "steps": None if step is None else numbers("--step", step),
        "group": None if group is None else read_group(group, model),
    }
    return Steering(**others, **{name: value for name, value in lists.items() if value is not None})


def _ranks_of(model: Model) -> tuple[int, ...]:
    """The default ranks that the model's heads have."""
    from qkatlas.jobs.steering.spec import RANKS

    return tuple(rank for rank in RANKS if rank <= model.checkpoint.architecture.d_head)
