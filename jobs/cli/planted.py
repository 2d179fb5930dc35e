"""`submit model planted`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from qkatlas.jobs.loop.terminal import harmless


@click.group("model")
def model() -> None:
    """Make model checkpoints."""


@model.command("planted")
@click.argument("directory", metavar="DIR")
@click.option("--size", default="full", show_default=True, help="full (GPT-2 small's shape), small or tiny.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything random in it.")
@click.option("--noise", type=float, default=0.0, show_default=True, help="Noise on the planted codes.")
@click.option("--skew", type=float, default=0.0, show_default=True, help="Skew-symmetric part of the target's W_QK.")
@click.option("--head", default="L1H5", show_default=True, help="The target head, in layer 1 or later.")
@click.option("--positions", is_flag=True, help="Heads of known kernels beside them, in layers 0 and 2.")
@click.option("--tasks", is_flag=True, help="Heads that solve tasks: induction, copied prepositions, days in order.")
@click.option("--neurons", is_flag=True, help="A contextual group in layer 0, and neurons that read it.")
@click.option("--features", metavar="DIR", help="Write dictionaries of features for it there, whose owners are known.")
def planted(
    directory: str,
    size: str,
    seed: int,
    noise: float,
    skew: float,
    head: str,
    positions: bool,
    tasks: bool,
    neurons: bool,
    features: str | None,
) -> None:
    """Write the planted checkpoint: a GPT-2 whose categories, heads and eigenvalues are known."""
    from qkatlas.jobs.inputs.dictionaries import write_dictionaries
    from qkatlas.jobs.inputs.resolve import write_checkpoint
    from qkatlas.outputs.places.open import at_home
    from qkatlas.pipeline.planted.checkpoint import PlantedDesign, plant
    from qkatlas.pipeline.planted.features import plant_dictionaries
    from qkatlas.pipeline.planted.neurons import with_neurons
    from qkatlas.pipeline.planted.positions import with_positions
    from qkatlas.pipeline.planted.tasks import with_tasks

    if not directory.strip() or (features is not None and not features.strip()):
        raise ValueError("the name of the directory is empty; name a new directory")
    if positions and tasks:
        raise ValueError(
            "--positions and --tasks exclude each other, for both take the place of random heads; drop one"
        )
    design = PlantedDesign(size=size, seed=seed, noise=noise, skew=skew, head=head)
    try:
        made = plant(design)
        made = with_positions(made) if positions else with_tasks(made) if tasks else made
        made = with_neurons(made) if neurons else made
        place = directory
        write_checkpoint(made, Path(at_home(place)))
        if features is not None:
            place = features
            write_dictionaries(plant_dictionaries(made), Path(at_home(place)))
    except OSError as error:
        raise ValueError(f"{place} cannot be written ({error.strerror or error}); choose a new directory") from error
    lines = [
        f"planted checkpoint ({size}, target {head}) in {directory}; its truth is in {directory}/truth.json",
        f"next: submit full-vocab --model {shlex.quote(directory)} --head {head}",
    ]
    if features is not None:
        lines += [
            f"its dictionaries of features in {features}; the truth of each is in its truth.json",
            f"next: submit features {shlex.quote(features)} --model {shlex.quote(directory)}",
        ]
    for line in lines:
        click.echo(harmless(line, one_line=True))
