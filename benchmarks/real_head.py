"""Queries and keys of a head of a learned model, as data for benchmarks."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]


def real_head(name: str, head_name: str, threads: int) -> tuple[Matrix, Matrix]:
    """Return queries and keys of every token, for states `mlp` and, where positions turn them, one position apart.

    Args:
        name: of the model, as in `submit --model`.
        head_name: such as L1H5.
        threads: threads to use.
    """
    # Only here: the synthetic data need no model's libraries.
    from qkatlas.jobs.inputs.model import Model
    from qkatlas.jobs.inputs.resolve import resolve
    from qkatlas.pipeline.circuit.projection import head_inputs, head_weights
    from qkatlas.pipeline.models.head import Head
    from qkatlas.pipeline.models.rotary import Offsets

    path: Path = resolve(name, lambda text: print(text, file=sys.stderr))
    model = Model.open(name, path)
    head = Head.parse(head_name)
    states_VD = model.token_states("mlp", layer=head.layer, threads=threads).advance_to(head.layer)
    weights = head_weights(model.checkpoint, head)
    inputs = head_inputs(weights, states_VD, offset=Offsets(1, 1) if weights.rotary else None, threads=threads)
    return np.ascontiguousarray(inputs.queries_VH), np.ascontiguousarray(inputs.keys_VH)
