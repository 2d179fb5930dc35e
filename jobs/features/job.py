"""How `features` is planned, computed and finished."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import pyarrow as pa
from rich.console import Group

from qkatlas.jobs.features import tables
from qkatlas.jobs.features.answer import described
from qkatlas.jobs.features.corpus import text_windows
from qkatlas.jobs.features.heads import LayerFeatures, judge
from qkatlas.jobs.features.qk import HeadReading, LayerReading, read_head
from qkatlas.jobs.features.spec import Features
from qkatlas.jobs.features.work import Kept, describe
from qkatlas.jobs.inputs.dictionaries import dictionaries_of
from qkatlas.jobs.inputs.heads import heads_within
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.offset import fitted_offset
from qkatlas.jobs.inputs.opening import ModelJob, open_model
from qkatlas.jobs.inputs.settings import require_top_k_fits
from qkatlas.jobs.inputs.windows import digest_of_windows
from qkatlas.jobs.loop.job import Host
from qkatlas.jobs.loop.step import AnyStep, Context, Step
from qkatlas.jobs.worker.tables import TOKENS, tokens_table
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.shard import Shard
from qkatlas.outputs.schemas import features as schemas
from qkatlas.pipeline.circuit.kinds import FOLDED
from qkatlas.pipeline.circuit.ov import Unembedding, unembedding_of
from qkatlas.pipeline.circuit.projection import head_weights
from qkatlas.pipeline.circuit.text_streams import StreamsByLayer
from qkatlas.pipeline.features.attention import LayerHeads
from qkatlas.pipeline.features.config import DictionaryConfig
from qkatlas.pipeline.features.dictionary import Dictionary
from qkatlas.pipeline.features.encoder import Encoder
from qkatlas.pipeline.features.kinds import Z
from qkatlas.pipeline.features.logits import logit_directions, logit_metric, writing
from qkatlas.pipeline.features.on_text import DictionaryOnText, on_text
from qkatlas.pipeline.models.head import Head


class FeaturesJob(ModelJob[Features]):
    """Dictionaries one after the other: their features in ranges, then the heads that they are of.

    Args:
        spec: what is asked for.
        model: the model.
        dictionaries: the dictionaries, in order of their layers.

    Raises:
        ValueError: if the request, or a dictionary, does not fit the model.
    """

    name = "features"
    tables = (
        TOKENS, tables.DICTIONARIES, tables.FEATURE_ROWS, tables.CONTEXTS, tables.DFA, tables.ATTRIBUTION,
        tables.HEAD_ROWS, tables.QK_ROWS, tables.QK_HEADS, tables.TEXTS,
    )  # fmt: skip
    shows = ("dictionaries", "heads", "features", "attribution", "dfa", "qk")
    look = ("dictionaries.parquet", '[["layer", "reads", "convention", "fvu"]]')

    def __init__(self, spec: Features, model: Model, dictionaries: Sequence[Dictionary]) -> None:
        super().__init__(spec, model)
        self._dictionaries = _fitting(spec, model, dictionaries)
        model.checkpoint.require_unembedding("submit features reads what features write by them")
        require_top_k_fits(spec.top_k, model.checkpoint.architecture.vocab_size)
        self._tokens_WT = text_windows(spec, model)
        reading = [one.config.layer for one in self._dictionaries if one.config.reads != Z]
        self._offset = fitted_offset(spec.offset, model.checkpoint.architecture, reading) if reading else None
        if spec.offset is not None and not reading:
            raise ValueError(
                f"--offset {spec.offset} has no meaning without a dictionary of a residual stream; leave it out"
            )
        self._streams = StreamsByLayer(model.checkpoint, self._tokens_WT)
        self._unembedding: tuple[Unembedding, np.ndarray, np.ndarray] | None = None

    @classmethod
    def open(cls, spec: Features, host: Host) -> Self:
        """Open the model and the dictionaries, and fit the request to them.

        Raises:
            ValueError: if one of them cannot be had or read, or does not fit.
        """
        found = dictionaries_of(spec.directory, host.request.model, host.say)
        return cls(spec, open_model(host), found)

    def settings(self) -> dict[str, Any]:
        """The settings that change results; dictionaries count by what is in them, text by the tokens it is."""
        spec = self.spec
        reading = any(one.config.reads != Z for one in self._dictionaries)
        return {
            "dictionaries": [_named(one) for one in self._dictionaries],
            "convention": spec.convention,
            "windows": len(self._tokens_WT),
            "length": self._tokens_WT.shape[1],
            "text_tokens_sha256": digest_of_windows(self._tokens_WT),
            "top_k": spec.top_k,
            "firings": spec.firings,
            "per_head": spec.per_head,
            "seed": spec.seed,
            **({"states": spec.states} if reading else {}),
            **({"offset": str(self._offset)} if self._offset else {}),
        }

    def steps(self) -> Sequence[AnyStep]:
        """Of each dictionary its features, then its heads."""
        found: list[AnyStep] = []
        for dictionary in self._dictionaries:
            features = self._features(dictionary)
            heads = self._heads(dictionary, features) if dictionary.config.reads == Z else self._reading(dictionary)
            found += [features, heads]
        return found

    def _features(self, dictionary: Dictionary) -> Step[DictionaryOnText, Kept]:
        kept = Kept(tokens=self.spec.top_k, firings=self.spec.firings)
        return Step(
            kind=tables.FEATURES,
            shards=tables.feature_shards(dictionary.config),
            share=lambda context: self._on_text(dictionary, context.threads),
            each=lambda shard: kept,
            compute=describe,
            preparing="text, and conventions",
        )

    def _heads(self, dictionary: Dictionary, features: AnyStep) -> Step[LayerFeatures, int]:
        config = dictionary.config
        n_heads = self.model.checkpoint.architecture.n_heads

        def share(context: Context) -> LayerFeatures | None:
            parts = context.run.parts_of(features.shards)
            if parts is None:
                return None
            unembedding, _, metric_DD = self._unembed()
            encoder = Encoder(config=config, tensors=dictionary.tensors())
            write_XD = writing(self.model.checkpoint, config.reads, config.layer, unembedding)
            logit_FD = logit_directions(encoder, write_XD, metric_DD, threads=context.threads)
            return LayerFeatures.read(context.run, parts, encoder, logit_FD, self.spec.seed)

        return Step(
            kind=tables.HEADS,
            shards=tables.head_shards(config.layer, n_heads, tables.HEADS),
            share=share,
            each=lambda shard: self.spec.per_head,
            compute=judge,
            after=(features,),
            preparing="reading features",
        )

    def _reading(self, dictionary: Dictionary) -> Step[LayerReading, HeadReading]:
        config = dictionary.config

        def share(context: Context) -> LayerReading:
            states = self.model.token_states(self.spec.states, layer=config.layer, threads=context.threads)
            return LayerReading(
                layer=self._on_text(dictionary, context.threads),
                states_VD=states.advance_to(config.layer),
                offset=self._offset,
            )

        def task(shard: Shard) -> HeadReading:
            head = Head(shard.bounds["layer"], shard.bounds["head"])
            return HeadReading(weights=head_weights(self.model.checkpoint, head), kept=self.spec.top_k)

        return Step(
            kind=tables.QK,
            shards=tables.head_shards(config.layer, self.model.checkpoint.architecture.n_heads, tables.QK),
            share=share,
            each=task,
            compute=read_head,
            preparing="token states",
        )

    def _on_text(self, dictionary: Dictionary, threads: int) -> DictionaryOnText:
        """A dictionary on the text, by the convention that is asked for or measured."""
        config, checkpoint = dictionary.config, self.model.checkpoint
        stream_WTD = self._streams.at(config.layer, threads=threads)
        heads = LayerHeads.of(checkpoint, config.layer)
        encoder = Encoder(config=config, tensors=dictionary.tensors())
        convention, limit_P = on_text(heads, encoder, stream_WTD, self.spec.convention, threads=threads)
        unembedding, centred_VD, _ = self._unembed()
        weights = self.model.identity["weights_sha256"]
        return DictionaryOnText(
            config=config,
            tensors=encoder.tensors,
            trained_F=dictionary.trained_density(),
            heads=heads,
            tokens_WT=self._tokens_WT,
            stream_WTD=stream_WTD,
            convention=convention,
            limit_P=limit_P,
            write_XD=writing(checkpoint, config.reads, config.layer, unembedding),
            unembedding_VD=centred_VD,
            unembedded_from=weights,
            made_from=f"{weights} {sorted(dictionary.identity().items())} {convention}",
        )

    def _unembed(self) -> tuple[Unembedding, np.ndarray, np.ndarray]:
        """The unembedding, its centred rows, and the angles of logits."""
        if self._unembedding is None:
            found = unembedding_of(self.model.checkpoint, FOLDED)
            centred_VD = found.centred()
            self._unembedding = found, centred_VD, logit_metric(centred_VD)
        return self._unembedding

    def scores_in(self, shard: Shard) -> int:
        """Work of a shard in products as wide as a score's."""
        a = self.model.checkpoint.architecture
        if shard.kind == tables.FEATURES:
            return (shard.bounds["stop"] - shard.bounds["start"]) * (a.vocab_size + 4 * self._tokens_WT.size)
        return a.vocab_size

    def reduce(self, run: Run) -> Mapping[str, pa.Table]:
        """The tokens, the text, a row for each dictionary, and one for each head."""
        receipts = run.receipts()
        n_heads = self.model.checkpoint.architecture.n_heads
        rows: dict[str, list[dict[str, Any]]] = {tables.HEADS: [], tables.QK: []}
        described_rows = []
        for dictionary in self._dictionaries:
            config = dictionary.config
            shards = [receipts[shard.name].summary for shard in tables.feature_shards(config)]
            described_rows.append(self._row(dictionary, shards))
            kind = tables.HEADS if config.reads == Z else tables.QK
            rows[kind] += [receipts[shard.name].summary["row"] for shard in
                           tables.head_shards(config.layer, n_heads, kind)]  # fmt: skip
        windows, length = self._tokens_WT.shape
        texts = [
            np.repeat(np.arange(windows), length),
            np.tile(np.arange(length), windows),
            self._tokens_WT.reshape(-1),
        ]
        found = {
            "tokens": tokens_table(self.model),
            "texts": pa.Table.from_arrays([pa.array(column.astype(np.int32)) for column in texts],
                                          schema=schemas.TEXTS),
            "dictionaries": pa.Table.from_pylist(described_rows, schema=schemas.DICTIONARIES),
        }  # fmt: skip
        for name, of_kind, schema in (
            ("heads", rows[tables.HEADS], schemas.HEADS), ("qk_heads", rows[tables.QK], schemas.QK_HEADS),
        ):  # fmt: skip
            if of_kind:
                found[name] = pa.Table.from_pylist(of_kind, schema=schema)
        return found

    def _row(self, dictionary: Dictionary, shards: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        config: DictionaryConfig = dictionary.config
        first = shards[0]
        return {
            "layer": config.layer, "reads": config.reads, "architecture": config.architecture, "d_in": config.d_in,
            "d_sae": config.d_sae, "k": config.k, "normalise": config.normalise,
            "weights_sha256": dictionary.weights_sha256, "asked": self.spec.convention,
            "conventions_differ": first["differ"], "l0": sum(one["fires"] for one in shards),
            "silent_share": sum(one["silent"] for one in shards) / config.d_sae,
            **{name: first[name] for name in
               ("convention", "fvu", "fvu_folded", "fvu_raw", "calibration_positions", "positions")},
        }  # fmt: skip

    def notes(self) -> Iterable[str]:
        """What the text is."""
        windows, length = self._tokens_WT.shape
        yield f"{len(self._dictionaries)} dictionaries on {windows} windows of {length} positions"

    def answer(self, run: Run) -> Group:
        """What each dictionary is, and the heads whose features are of one kind."""
        return described(run)


def _named(dictionary: Dictionary) -> str:
    """A dictionary's place, and the hash of all that changes results."""
    identity = json.dumps(dictionary.identity(), sort_keys=True)
    config = dictionary.config
    return f"L{config.layer} {config.reads} {hashlib.sha256(identity.encode()).hexdigest()}"


def _fitting(spec: Features, model: Model, dictionaries: Sequence[Dictionary]) -> list[Dictionary]:
    """The dictionaries that are asked for, each of which fits the model.

    Raises:
        ValueError: if one does not, or none is left.
    """
    a = model.checkpoint.architecture
    wanted = {head.layer for head in heads_within(spec.layers, None, n_layers=a.n_layers, n_heads=1)}
    found = [one for one in dictionaries if spec.layers is None or one.config.layer in wanted]
    if not found:
        there = ", ".join(str(one.config.layer) for one in dictionaries)
        raise ValueError(f"--layers {spec.layers} have no dictionary; there are those of layers {there}")
    for one in found:
        config = one.config
        if config.layer >= a.n_layers:
            raise ValueError(
                f"{one.path} is a dictionary of what enters layer {config.layer}, and the model has layers 0 to "
                f"{a.n_layers - 1}, so that no head reads it; give one of an earlier layer"
            )
        width = a.n_heads * a.d_head if config.reads == Z else a.d_model
        if config.d_in != width:
            raise ValueError(
                f"{one.path} reads {config.d_in} numbers, but {config.reads} of model {model.name} has {width}; give "
                "a dictionary of this model"
            )
    return found
