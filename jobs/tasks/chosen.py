"""Which heads of a task are measured exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qkatlas.jobs.tasks.spec import Tasks
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.text import streams


@dataclass(frozen=True)
class Chosen:
    """The heads of one task.

    Attributes:
        first: those of the largest linear estimates.
        audited: a random sample of the others.
        left: the others, the sample among them.
    """

    first: tuple[Head, ...]
    audited: tuple[Head, ...]
    left: int

    @property
    def measured(self) -> tuple[Head, ...]:
        """All that are measured, ascending."""
        return tuple(sorted((*self.first, *self.audited)))


def choose(spec: Tasks, heads: Sequence[Head], estimates: np.ndarray, number: int) -> Chosen:
    """Choose the heads of a task: the largest estimates by magnitude, of prompts less controls; and a sample.

    Args:
        spec: what is asked for.
        heads: heads to choose from, ascending.
        estimates: float64 [2, L, N], of prompts and of controls.
        number: of the task in the run, which seeds the sample.
    """
    if not spec.exact:
        return Chosen(tuple(heads), (), 0)
    size = np.array(
        [abs(estimates[0, head.layer, head.index] - estimates[1, head.layer, head.index]) for head in heads]
    )
    order = np.argsort(-size, kind="stable")
    first = [heads[place] for place in order[: spec.exact]]
    others = [heads[place] for place in sorted(order[spec.exact :])]
    rng = streams.TASK_AUDIT.generator(spec.seed, number)
    drawn = rng.permutation(len(others))[: spec.audit].tolist()
    return Chosen(tuple(sorted(first)), tuple(others[place] for place in sorted(drawn)), len(others))
