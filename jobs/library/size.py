"""Which jobs are small enough to run in the calling process: starting Ray would take longer than they do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qkatlas.cluster.cpus import local_cpus
from qkatlas.jobs.inputs.loaded import LoadedModel
from qkatlas.jobs.loop.declaration import Declaration
from qkatlas.jobs.plan.plan import Machines
from qkatlas.jobs.plan.shape import Shape, find_shape
from qkatlas.outputs.places.open import open_folder
from qkatlas.outputs.runs import store

SMALL_SECONDS = 10.0
"""Estimated seconds of work below which a job is small."""

SMALL_WEIGHTS = 5_000_000
"""Weights of a model below which a job without a plan is small."""

SMALL_VOCABULARY = 5_000
"""Tokens of a run below which a job that goes on from it is small."""

_THREADS = 4
"""Threads that work in one process."""


def goes_on_from_small(out: str, run: str) -> bool:
    """Whether the run that a job goes on from has few tokens.

    Args:
        out: folder of all runs.
        run: the run's name, as `store.find` takes it.

    Raises:
        ValueError: if there is no such run.
    """
    manifest = store.find(open_folder(out), run).manifest()
    size = None if manifest is None else manifest.request.vocab_size
    return size is not None and size < SMALL_VOCABULARY


def is_small(declaration: Declaration, spec: Any, model: str | LoadedModel) -> bool:
    """Whether a job about a model is small, by its plan, or by the model's weights where it has none.

    Args:
        declaration: of the job.
        spec: what is asked for.
        model: the model; its weights are not read.
    """
    try:
        if isinstance(model, LoadedModel):
            shape = Shape.of(model.checkpoint(lambda line: None).architecture, Path("in memory"), model.name)
        else:
            shape = find_shape(model)
        if not declaration.plan:
            return shape.weights < SMALL_WEIGHTS
        plan = declaration.load(declaration.plan)(shape, spec)
    except ValueError:  # a hub name, whose size is not known yet; or a request that opening the job will refuse
        return False
    machines = Machines.of(gpus=0, cpus=min(_THREADS, local_cpus()), gpu=None)
    return sum(seconds for name, seconds in machines.seconds(plan).items() if name != "start") < SMALL_SECONDS
