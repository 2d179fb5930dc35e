"""What a neurons run computes on workers: a range of neurons a shard, and the components of the layer.

Shapes: V vocabulary, J neurons of a shard, K tokens kept at either end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from qkatlas.cluster.executor import Grant
from qkatlas.jobs.loop.step import Produced
from qkatlas.jobs.worker.prepared import prepared_keys
from qkatlas.outputs.runs.shard import Shard
from qkatlas.outputs.schemas import neurons as schemas
from qkatlas.pipeline.neurons.components import Components, independent_components
from qkatlas.pipeline.neurons.kinds import ICA, LEIDEN, LISTED, STRONGEST
from qkatlas.pipeline.neurons.latents import Latents, find_latents
from qkatlas.pipeline.neurons.measures import (
    Classes,
    fit_columns,
    naive_bayes,
    null_columns,
    opposites,
    weight_columns,
)
from qkatlas.pipeline.neurons.reading import Reading
from qkatlas.pipeline.scoring.engine import score_rows
from qkatlas.pipeline.scoring.rows import RowScores
from qkatlas.pipeline.text import streams

LAYER = 0
"""The only layer whose heads are a bag of tokens exactly enough to be asked for."""

READERS = 8
"""Neurons that are named for an independent component: those that read it most."""


@dataclass(frozen=True, kw_only=True)
class LayerNeurons:
    """What all shards read.

    Attributes:
        reading: of the layer.
        made_from: hash of the extended embeddings.
        classes: two texts to tell apart; None = none.
        chosen: neurons whose latents are looked for.
        resolution: of latents.
        seed: of the run.
    """

    reading: Reading
    made_from: str
    classes: Classes | None
    chosen: np.ndarray
    resolution: float
    seed: int


def measure(grant: Grant, shard: Shard, layer: LayerNeurons, each: None) -> Produced:
    """Measure a range of neurons; runs on a worker, on CPUs.

    Args:
        grant: what the worker may use.
        shard: its bounds are neurons.
        layer: what all shards read.
        each: nothing.
    """
    reading, rows, threads = layer.reading, shard.rows, grant.cpus
    keys = prepared_keys(layer.made_from, reading.extended_VD, "cpu", use="extended embeddings")
    top, bottom = (
        score_rows(
            reading.queries_JD[rows], keys, row_ids_R=None, k=min(STRONGEST, keys.vocabulary_size), threads=threads,
            lowest=lowest,
        )
        for lowest in (False, True)
    )  # fmt: skip
    read_JD, bias_J = reading.read_JD[rows], reading.bias_J[rows]
    columns = weight_columns(reading, rows, threads=threads)
    columns |= fit_columns(reading.held, read_JD, bias_J, threads=threads)
    shuffled = fit_columns(reading.shuffled, read_JD, bias_J, threads=threads)
    columns |= {f"{name}{schemas.SHUFFLED}": values for name, values in shuffled.items()}
    columns |= null_columns(reading, read_JD, threads=threads)
    if layer.classes is not None:
        columns["naive_bayes_r"] = naive_bayes(reading, rows, layer.classes, threads=threads)
    found: dict[str, list[Any]] = {name: _plain(values) for name, values in columns.items()}
    if len(reading.write_JD) > 1:
        opposite_J, cosine_J = opposites(reading.write_JD, rows, threads=threads)
        known_J = ~np.isnan(cosine_J)
        found["opposite_id"] = [
            int(neuron) if known else None for neuron, known in zip(opposite_J, known_J, strict=True)
        ]
        found["opposite_cosine"] = _plain(cosine_J)
    of_neurons = _latents(layer, rows, top, bottom, columns["contribution_mean"])
    found |= _counted(of_neurons, range(rows.start, rows.stop))
    tables = {
        "neuron_tokens": _tokens_table(rows, top, bottom, of_neurons),
        "latents": pa.Table.from_pylist(
            [row for neuron, one in of_neurons.items() for row in one.rows(neuron)], schema=schemas.LATENTS
        ),
    }
    return Produced(tables, {"columns": found, "heads": head_rows(reading)}, {"device": "cpu"})


def head_rows(reading: Reading) -> list[dict[str, Any]]:
    """Rows of the table `bags`."""
    shared = {"layer": LAYER, "median_position": reading.median_position, "sigma_2": reading.scale_2}
    return [{**shared, **asdict(row)} for row in reading.heads]


@dataclass(frozen=True, kw_only=True)
class NeuronLatents:
    """Latents of one neuron.

    Attributes:
        token_ids_S: int64, its strongest tokens, by how far their contributions are from the mean one.
        value_S: float64, their contributions.
        found: latents of these tokens.
        random: latents among as many random tokens.
    """

    token_ids_S: np.ndarray
    value_S: np.ndarray
    found: Latents
    random: int

    def rows(self, neuron: int) -> list[dict[str, Any]]:
        """Rows of the table `latents`."""
        rows = []
        for latent, stability in enumerate(self.found.stability_K.tolist()):
            own = np.flatnonzero(self.found.latent_S == latent)
            rows.append(
                {
                    "layer": LAYER, "method": LEIDEN, "neuron": neuron, "latent": latent, "tokens": len(own),
                    "stability": stability, "contribution": float(self.value_S[own].mean()),
                    "token_ids": self.token_ids_S[own[:LISTED]].tolist(), "values": self.value_S[own[:LISTED]].tolist(),
                    "neuron_ids": [], "loadings": [],
                }
            )  # fmt: skip
        return rows


def _latents(
    layer: LayerNeurons, rows: slice, top: RowScores, bottom: RowScores, mean_J: np.ndarray
) -> dict[int, NeuronLatents]:
    """Latents of those of some neurons that were chosen."""
    reading, found = layer.reading, {}
    known = np.flatnonzero(reading.weight_V > 0)
    size = min(STRONGEST, len(known))
    settings: dict[str, Any] = {"resolution": layer.resolution, "seed": layer.seed, "layer": LAYER}
    for neuron in sorted(set(range(rows.start, rows.stop)) & set(layer.chosen.tolist())):
        at = neuron - rows.start
        token_ids = np.concatenate([top.key_ids_RK[at], bottom.key_ids_RK[at]]).astype(np.int64)
        values = np.concatenate([top.scores_RK[at], bottom.scores_RK[at]]).astype(np.float64)
        token_ids, first = np.unique(token_ids, return_index=True)
        values = values[first]
        ordinary = token_ids != reading.bos
        token_ids, values = token_ids[ordinary], values[ordinary]
        order = np.lexsort((token_ids, -np.abs(values - mean_J[at])))[:size]
        token_ids, values = token_ids[order], values[order]

        def of_tokens(ids: np.ndarray) -> np.ndarray:
            centred: np.ndarray = reading.extended_VD[ids].astype(np.float64) - reading.moments.mean_D
            return centred

        rng = streams.LATENTS.generator(layer.seed, LAYER, neuron, part=1000)
        random = find_latents(
            of_tokens(rng.choice(known, size, replace=False)), neuron=neuron, again=0, **settings
        )  # fmt: skip
        found[neuron] = NeuronLatents(
            token_ids_S=token_ids,
            value_S=values,
            found=find_latents(of_tokens(token_ids), neuron=neuron, **settings),
            random=len(random.stability_K),
        )
    return found


def _counted(of_neurons: Mapping[int, NeuronLatents], neurons: Sequence[int]) -> dict[str, list[Any]]:
    """Columns about latents; null where none were looked for."""
    found: dict[str, list[Any]] = {"n_latents": [], "n_latents_null": [], "latent_stability": []}
    for neuron in neurons:
        one = of_neurons.get(neuron)
        stability = None if one is None else one.found.stability_K
        found["n_latents"].append(None if stability is None else len(stability))
        found["n_latents_null"].append(None if one is None else one.random)
        some = stability is not None and len(stability)
        found["latent_stability"].append(float(stability.mean()) if some and stability is not None else None)
    return found


def _tokens_table(rows: slice, top: RowScores, bottom: RowScores, of_neurons: Mapping[int, NeuronLatents]) -> pa.Table:
    """Rows of the table `neuron_tokens`."""
    k = top.key_ids_RK.shape[1]
    columns = [
        pa.array(np.full(rows.stop - rows.start, LAYER, np.int32)),
        pa.array(np.arange(rows.start, rows.stop, dtype=np.int32)),
    ]
    for end in (top, bottom):
        latent_JK = np.full(end.key_ids_RK.shape, -1, np.int32)
        for neuron, one in of_neurons.items():
            latent_of = dict(zip(one.token_ids_S.tolist(), one.found.latent_S.tolist(), strict=True))
            at = neuron - rows.start
            latent_JK[at] = [latent_of.get(token, -1) for token in end.key_ids_RK[at].tolist()]
        flat = pa.array(latent_JK.reshape(-1), mask=(latent_JK < 0).reshape(-1))
        columns += [
            pa.FixedSizeListArray.from_arrays(pa.array(end.key_ids_RK.reshape(-1)), k),
            pa.FixedSizeListArray.from_arrays(pa.array(end.scores_RK.reshape(-1)), k),
            pa.FixedSizeListArray.from_arrays(flat, k),
        ]
    return pa.Table.from_arrays(columns, schema=schemas.neuron_tokens(k))


def find_components(grant: Grant, shard: Shard, layer: LayerNeurons, each: None) -> Produced:
    """Find independent components of the layer's extended embeddings; runs on a worker, on one thread.

    Args:
        grant: what the worker may use.
        shard: of the layer.
        layer: what all shards read.
        each: nothing.
    """
    reading = layer.reading
    found = independent_components(
        reading.extended_VD, reading.weight_V, reading.moments, seed=layer.seed, layer=LAYER
    )  # fmt: skip
    rows = [] if found is None else _component_rows(found, reading)
    return Produced({"latents": pa.Table.from_pylist(rows, schema=schemas.LATENTS)}, {}, {"device": "cpu"})


def _component_rows(found: Components, reading: Reading) -> list[dict[str, Any]]:
    loading_JK = reading.queries_JD.astype(np.float64) @ found.direction_DK
    rows = []
    for number in range(len(found.share_K)):
        value_V = found.value_VK[:, number].copy()
        value_V[reading.bos] = -np.inf
        strongest = np.argsort(-value_V, kind="stable")[:LISTED]
        readers = np.argsort(-np.abs(loading_JK[:, number]), kind="stable")[:READERS]
        rows.append(
            {
                "layer": LAYER, "method": ICA, "latent": number,
                "stability": float(found.stability_K[number]), "share": float(found.share_K[number]),
                "kurtosis": float(found.kurtosis_K[number]), "token_ids": strongest.tolist(),
                "values": value_V[strongest].tolist(), "neuron_ids": readers.tolist(),
                "loadings": loading_JK[readers, number].tolist(),
            }
        )  # fmt: skip
    return rows


def _plain(values_J: np.ndarray) -> list[float | None]:
    """Numbers as JSON has them; NaN is null."""
    return [None if np.isnan(value) else float(value) for value in values_J]
