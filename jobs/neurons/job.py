"""How `neurons` is planned, computed and finished."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import pyarrow as pa
from rich.console import Group

from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.opening import ModelJob, open_model
from qkatlas.jobs.inputs.windows import digest_of_windows
from qkatlas.jobs.loop.digest import digest_of
from qkatlas.jobs.loop.job import Host
from qkatlas.jobs.loop.step import AnyStep, Context, Step, nothing_more
from qkatlas.jobs.loop.table import Table
from qkatlas.jobs.neurons.answer import neurons_of_contexts
from qkatlas.jobs.neurons.corpus import contextual_heads, named_heads, read_classes, token_weights
from qkatlas.jobs.neurons.spec import LONGEST, Neurons
from qkatlas.jobs.neurons.work import LAYER, LayerNeurons, find_components, measure
from qkatlas.jobs.positions.corpus import text_windows
from qkatlas.jobs.positions.job import PositionsJob
from qkatlas.jobs.worker.tables import TOKENS, tokens_table
from qkatlas.outputs.runs.reader import read_parts
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.shard import Shard
from qkatlas.outputs.schemas import neurons as schemas
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.neurons.block import require_first_mlp
from qkatlas.pipeline.neurons.kinds import AUTO, LISTED, STRONGEST
from qkatlas.pipeline.neurons.reading import Reading, read_layer

NEURONS_PER_SHARD = 256

OF_NEURONS, OF_LAYER = "neurons", "components"
"""Kinds of shards."""

NEURONS = Table(name="neurons", rows="one row a neuron", schema=schemas.neurons(LISTED))
LATENTS = Table(name="latents", rows="one row a latent", schema=schemas.LATENTS, file="latents/part-{part:05d}.parquet")
NEURON_TOKENS = Table(
    name="neuron_tokens", rows="one row a neuron", schema=schemas.neuron_tokens(STRONGEST),
    file="neuron_tokens/part-{part:05d}.parquet", kinds=(OF_NEURONS,),
)  # fmt: skip
BAGS = Table(name="bags", rows="one row a head of layer 0", schema=schemas.BAGS)


def neuron_shards(neurons: int) -> list[Shard]:
    """Fixed ranges of neurons; they depend on no machine.

    Args:
        neurons: J.
    """
    starts = range(0, neurons, NEURONS_PER_SHARD)
    return [
        Shard(
            f"L{LAYER}-{start:06d}", f"L{LAYER}",
            {"layer": LAYER, "part": part, "start": start, "stop": min(start + NEURONS_PER_SHARD, neurons)}, OF_NEURONS,
        )
        for part, start in enumerate(starts)
    ]  # fmt: skip


def component_shard(neurons: int) -> Shard:
    """The shard of the layer's components, whose part comes behind those of neurons."""
    part = -(-neurons // NEURONS_PER_SHARD)
    return Shard(f"L{LAYER}-components", f"L{LAYER}", {"layer": LAYER, "part": part}, OF_LAYER)


class NeuronsJob(ModelJob[Neurons]):
    """Neurons of the first MLP in ranges, one a shard, and one of the layer's components.

    Args:
        spec: what is asked for.
        model: the model.
        group: heads of layer 0 by their places; None = those that the spec names.

    Attributes:
        group: heads of layer 0, by their places.

    Raises:
        ValueError: if the request does not fit the model.
    """

    name = "neurons"
    tables = (TOKENS, NEURONS, NEURON_TOKENS, LATENTS, BAGS)
    shows = ("neurons", "latents", "neuron_tokens", "bags")
    look = ("neurons.parquet", '.nlargest(10, "contextuality")')

    def __init__(self, spec: Neurons, model: Model, group: tuple[int, ...] | None = None) -> None:
        super().__init__(spec, model)
        a = model.checkpoint.architecture
        require_first_mlp(a)
        self.group = named_heads(spec.group, a) if group is None else group
        self._weight_V = token_weights(spec.frequencies, a)
        self._tokens_BT = text_windows(spec.positions(), model, most=LONGEST)
        self._classes = read_classes(spec.classes, model)
        self._layer: LayerNeurons | None = None

    @classmethod
    def open(cls, spec: Neurons, host: Host) -> Self:
        """Open the model, and find the group where it is `auto`, by a positions run of layer 0.

        Raises:
            ValueError: if there is no such model, the request does not fit it, or no head is contextual.
            IncompleteError: if the positions run could not be finished.
        """
        model = open_model(host)
        if spec.group != AUTO:
            return cls(spec, model)
        require_first_mlp(model.checkpoint.architecture)
        positions = PositionsJob(spec.positions(), model)
        host.say("positions of layer 0, for its contextual heads")
        run = host.submit(positions, opened="opening the model").require_complete()
        return cls(spec, model, contextual_heads(run))

    def settings(self) -> dict[str, Any]:
        """The settings that change results; texts, counts and words count by the tokens they are."""
        spec = self.spec
        classes = None if self._classes is None else digest_of(self._classes)
        return {
            "group": [str(Head(LAYER, head)) for head in self.group],
            "windows": len(self._tokens_BT) // 3,
            "length": self._tokens_BT.shape[1],
            "text_tokens_sha256": digest_of_windows(self._tokens_BT),
            "counts_sha256": hashlib.sha256(self._weight_V.data).hexdigest() if spec.frequencies else None,
            "classes_sha256": classes,
            "latents": spec.latents,
            "resolution": spec.resolution,
            "seed": spec.seed,
        }

    def notes(self) -> Iterable[str]:
        """The group, and what is wrong with the counts if their texts are not the model's."""
        yield f"group: {', '.join(str(Head(LAYER, head)) for head in self.group)}"
        if self.spec.frequencies is not None:
            yield from self.spec.frequencies.notes(self.model.vocabulary)

    def steps(self) -> Sequence[AnyStep]:
        """Ranges of neurons, and the layer's components beside them."""
        neurons = self.model.checkpoint.architecture.d_mlp
        common: dict[str, Any] = {"share": self._share, "each": nothing_more, "preparing": "extended embeddings"}
        return [
            Step(kind=OF_NEURONS, shards=neuron_shards(neurons), compute=measure, **common),
            Step(kind=OF_LAYER, shards=[component_shard(neurons)], compute=find_components, **common),
        ]

    def _share(self, context: Context) -> LayerNeurons:
        if self._layer is None:
            spec = self.spec
            reading = read_layer(
                self.model.checkpoint, self._tokens_BT, self.group, self._weight_V, seed=spec.seed,
                threads=context.threads,
            )  # fmt: skip
            self._layer = LayerNeurons(
                reading=reading,
                made_from=digest_of(reading.extended_VD),
                classes=self._classes,
                chosen=chosen_neurons(reading, spec.latents),
                resolution=spec.resolution,
                seed=spec.seed,
            )
        return self._layer

    def scores_in(self, shard: Shard) -> int:
        """Contributions that a shard computes, from both ends."""
        if shard.kind != OF_NEURONS:
            return 0
        return 2 * (shard.rows.stop - shard.rows.start) * self.model.checkpoint.architecture.vocab_size

    def reduce(self, run: Run) -> Mapping[str, pa.Table]:
        """The tokens, a row for each neuron, and a row for each head."""
        receipts = run.receipts()
        shards = neuron_shards(self.model.checkpoint.architecture.d_mlp)
        of_shards = [receipts[shard.name] for shard in shards]
        tokens = read_parts(run, [part for receipt in of_shards for part in receipt.parts], "neuron_tokens")
        columns: dict[str, list[Any]] = {}
        for receipt in of_shards:
            for name, values in receipt.summary["columns"].items():
                columns.setdefault(name, []).extend(values)
        heads = of_shards[0].summary["heads"]
        return {
            "tokens": tokens_table(self.model),
            "neurons": _neurons_table(tokens, columns),
            "bags": pa.Table.from_pylist(heads, schema=schemas.BAGS),
        }

    def answer(self, run: Run) -> Group:
        """How good the bag is, and the neurons that are most of the document."""
        return neurons_of_contexts(run)


def chosen_neurons(reading: Reading, count: int) -> np.ndarray:
    """Neurons whose latents are looked for: those that read most through the group, by weights alone; ascending."""
    order = np.argsort(-np.nan_to_num(reading.contextuality_J, nan=-1.0), kind="stable")
    return np.sort(order[:count]).astype(np.int64)


def _neurons_table(tokens: pa.Table, columns: Mapping[str, Sequence[Any]]) -> pa.Table:
    """Rows of the table `neurons`, in its schema's order; columns that nothing was measured of are null."""
    k = min(LISTED, tokens.schema.field("top_ids").type.list_size)
    schema = schemas.neurons(k)
    found = []
    for field in schema:
        if field.name in ("layer", "neuron"):
            found.append(tokens[field.name].combine_chunks())
        elif pa.types.is_fixed_size_list(field.type):
            wide_JK = np.stack(tokens[field.name].to_numpy(zero_copy_only=False))
            kept = pa.array(np.ascontiguousarray(wide_JK[:, :k]).reshape(-1))
            found.append(pa.FixedSizeListArray.from_arrays(kept, k))
        else:
            found.append(pa.array(columns.get(field.name, [None] * tokens.num_rows), field.type))
    return pa.Table.from_arrays(found, schema=schema)
