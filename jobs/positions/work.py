"""What a positions run computes on workers: one head a shard."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from qkatlas.cluster.executor import Grant
from qkatlas.jobs.loop.step import Produced
from qkatlas.outputs.runs.shard import Shard
from qkatlas.outputs.schemas import positions as schemas
from qkatlas.pipeline.circuit.projection import HeadWeights
from qkatlas.pipeline.models.architecture import Architecture
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.positions.columns import Kernel, head_columns
from qkatlas.pipeline.positions.comparison import Comparison, compare
from qkatlas.pipeline.positions.decomposition import Decomposition, Factors
from qkatlas.pipeline.positions.embedded import Embedded
from qkatlas.pipeline.positions.exact_source import from_weights
from qkatlas.pipeline.positions.means import HeadMeans, Waves
from qkatlas.pipeline.positions.prefix_source import behind_prefix
from qkatlas.pipeline.positions.text_source import from_text
from qkatlas.pipeline.positions.windows import Windows


@dataclass(frozen=True, kw_only=True)
class Exact:
    """Layer 0 of learned positions, whose means the weights give.

    Attributes:
        rows: what enters it.
        heads: by a head's place: its means with the query that stands for all, with the mean query, and its factors.
    """

    rows: Embedded
    heads: Mapping[int, tuple[HeadMeans, HeadMeans, Factors]]


@dataclass(frozen=True, kw_only=True)
class LayerText:
    """What the heads of a layer share.

    Attributes:
        architecture: of the model.
        tokens_BT: int64 [3 B, T], windows: two thirds for the means, one to compare with.
        stream_BTD: float32 [3 B, T, D], what enters the layer at them.
        weight_V: float64 [V], weights of tokens.
        destination: the token whose query stands for all; None = the mean query.
        states_VD: float32 [V, D], every token's state behind the prefix; None where means come from elsewhere.
        exact: what the weights give; None where means come from elsewhere.
        weights_sha256: hash of the model's weights.
    """

    architecture: Architecture
    tokens_BT: np.ndarray
    stream_BTD: np.ndarray
    weight_V: np.ndarray
    destination: int | None
    states_VD: np.ndarray | None
    exact: Exact | None
    weights_sha256: str

    def identity(self) -> str:
        """Hash of all that the rest follows from."""
        digest = hashlib.sha256(f"{self.weights_sha256} {self.destination}".encode())
        for values in (self.tokens_BT, self.stream_BTD, self.weight_V, self.states_VD):
            if values is not None:
                digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class HeadTask:
    """One head."""

    head: Head
    weights: HeadWeights


def take_apart(grant: Grant, shard: Shard, layer: LayerText, task: HeadTask) -> Produced:
    """Take a head apart and compare it with its real attention; runs on a worker, on CPUs.

    Args:
        grant: what the worker may use.
        shard: of the head.
        layer: what the heads of its layer share.
        task: the head.
    """
    third = len(layer.tokens_BT) // 3
    windows = Windows.of(task.weights, layer.tokens_BT, layer.stream_BTD, threads=grant.cpus)
    fitted, held = windows[: 2 * third], windows[2 * third :]
    decomposition = _taken_apart(layer, task, fitted, held, grant.cpus)
    compared = compare(decomposition.means, decomposition.content, held, threads=grant.cpus)
    kernel = Kernel.of(decomposition)
    row = head_columns(decomposition, kernel, compared, threads=grant.cpus)
    tables = {
        "kernels": _kernel_table(kernel),
        "denominators": _denominator_table(task.head, compared),
        "content": _content_table(task.head, decomposition.factors),
    }
    summary: dict[str, Any] = {"row": row, "frequencies": None}
    if decomposition.means.rotary is not None:
        waves = Waves.of(decomposition.means)
        names = ("omega", "amplitude", "phase")
        values = (waves.omega_J, waves.amplitude_J, waves.phase_J)
        summary["frequencies"] = {name: of.tolist() for name, of in zip(names, values, strict=True)}
    return Produced(tables, summary, {"device": "cpu"})


def _taken_apart(layer: LayerText, task: HeadTask, fitted: Windows, held: Windows, threads: int) -> Decomposition:
    head, a = task.head, layer.architecture
    if layer.exact is not None:
        means, average, factors = layer.exact.heads[head.index]
        return from_weights(task.weights, means, average, factors, layer.exact.rows, layer.weight_V, held)
    if layer.states_VD is not None:
        return behind_prefix(
            task.weights, a, head.layer, layer.states_VD, layer.weight_V, held, destination=layer.destination,
            threads=threads,
        )  # fmt: skip
    return from_text(task.weights, a, head.layer, fitted, held, destination=layer.destination)


def _kernel_table(kernel: Kernel) -> pa.Table:
    columns = [
        pa.array(np.arange(len(kernel.share_O), dtype=np.int32)),
        *(pa.array(values) for values in (kernel.score_O, kernel.share_O, kernel.low_O, kernel.high_O)),
    ]
    return pa.Table.from_arrays(columns, schema=schemas.KERNELS)


def _denominator_table(head: Head, compared: Comparison) -> pa.Table:
    count, of_window = compared.denominator.shape
    columns = [
        *_place(head, count * of_window),
        pa.array(np.repeat(np.arange(count, dtype=np.int32), of_window)),
        pa.array(np.tile(compared.destination_R.astype(np.int32), count)),
        pa.array(compared.denominator.reshape(-1)),
    ]
    return pa.Table.from_arrays(columns, schema=schemas.DENOMINATORS)


def _content_table(head: Head, factors: Factors) -> pa.Table:
    columns = [
        *_place(head, len(factors.token_ids_X)),
        pa.array(factors.token_ids_X.astype(np.int32)),
        pa.array(factors.ln_f_X),
    ]
    return pa.Table.from_arrays(columns, schema=schemas.CONTENT)


def _place(head: Head, rows: int) -> list[pa.Array]:
    return [pa.array(np.full(rows, place, np.int32)) for place in (head.layer, head.index)]
