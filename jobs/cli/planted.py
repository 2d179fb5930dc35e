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
@click.option("--neurons", is_flag=True, help="A contextual group in layer 0, and neurons that read it.")
def planted(
    directory: str, size: str, seed: int, noise: float, skew: float, head: str, positions: bool, neurons: bool
) -> None:
    """Write the planted checkpoint: a GPT-2 whose categories, heads and eigenvalues are known."""
    from qkatlas.jobs.inputs.resolve import write_checkpoint
    from qkatlas.outputs.places.open import at_home
    from qkatlas.pipeline.planted.checkpoint import PlantedDesign, plant
    from qkatlas.pipeline.planted.neurons import with_neurons
    from qkatlas.pipeline.planted.positions import with_positions

    if not directory.strip():
        raise ValueError("the name of the directory is empty; name a new directory")
    design = PlantedDesign(size=size, seed=seed, noise=noise, skew=skew, head=head)
    try:
        made = plant(design)
        made = with_positions(made) if positions else made
        write_checkpoint(with_neurons(made) if neurons else made, Path(at_home(directory)))
    except OSError as error:
        raise ValueError(
            f"{directory} cannot be written ({error.strerror or error}); choose a new directory"
        ) from error
    for line in (
        f"planted checkpoint ({size}, target {head}) in {directory}; its truth is in {directory}/truth.json",
        f"next: submit full-vocab --model {shlex.quote(directory)} --head {head}",
    ):
        click.echo(harmless(line, one_line=True))
