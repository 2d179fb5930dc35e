"""What a tasks run reads again of what its shards committed.

Shapes: P prompts of a task, L layers, N heads of a layer, H head dimension, W answers looked up, C prompt and control.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qkatlas.outputs.runs.reader import list_matrix
from qkatlas.pipeline.models.head import Head


@dataclass(frozen=True)
class Linear:
    """Mean outputs of heads, and linear estimates of what their absence does.

    Attributes:
        means_LNH: float64, mean over prompts, controls and their positions.
        estimates: float64 [C, L, N], change of the loss of prompts and of controls.
    """

    means_LNH: np.ndarray
    estimates: np.ndarray


def read_linear(table: pa.Table, shape: tuple[int, int], kind: str) -> Linear:
    """Put together means and estimates of one task.

    Args:
        table: rows of `head_sums` of all of its prompts.
        shape: layers, and heads of a layer.
        kind: what takes the place of an output.
    """
    layers, heads = shape
    of = {}
    for control in (False, True):
        rows = table.filter(pc.equal(table["control"], control))
        of[control] = {
            "gradient": list_matrix(rows, "gradient").reshape(-1, layers, heads, len(rows["gradient"][0])).sum(axis=0),
            "sum": list_matrix(rows, "sum").reshape(-1, layers, heads, len(rows["sum"][0])).sum(axis=0),
            **{name: rows[name].to_numpy().reshape(-1, layers, heads).sum(axis=0) for name in ("product", "resampled")},
            **{name: rows[name].to_numpy().reshape(-1, layers, heads)[:, 0, 0].sum() for name in ("count", "prompts")},
        }
    means_LNH = of[False]["sum"] / of[False]["count"]
    estimates = []
    for control in (False, True):
        one = of[control]
        other_LN = {
            "mean": (one["gradient"] * means_LNH).sum(axis=2), "zero": 0.0, "resample": one["resampled"],
        }[kind]  # fmt: skip
        estimates.append((other_LN - one["product"]) / one["prompts"])
    return Linear(means_LNH, np.stack(estimates))


def read_losses(table: pa.Table, heads: Sequence[Head | None]) -> np.ndarray:
    """Losses of some heads, float64 [M, P, C, W]; None stands for nothing ablated.

    Args:
        table: rows of `task_losses` of one task, those of a head in order of its prompts.
        heads: the heads.
    """
    names = (("loss", "control_loss"), ("shuffled_loss", "shuffled_control_loss"))
    values = np.stack([np.stack([table[name].to_numpy() for name in pair], axis=1) for pair in names], axis=2)
    layer = table["layer"].fill_null(-1).to_numpy()
    head = table["head"].fill_null(-1).to_numpy()
    key = layer.astype(np.int64) * 1_000_000 + head
    order = np.argsort(key, kind="stable")
    wanted = [(-1_000_001 if one is None else one.layer * 1_000_000 + one.index) for one in heads]
    starts = np.searchsorted(key[order], wanted, side="left")
    stops = np.searchsorted(key[order], wanted, side="right")
    return np.stack([values[order[start:stop]] for start, stop in zip(starts, stops, strict=True)])
