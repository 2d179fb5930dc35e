"""`submit ablation`: what every head's behaviour rests on, component by component and head by head."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from qkatlas.cluster.executor import Executor, Grant, Handle
from qkatlas.jobs.ablation.work import Work, read_means, read_measured, run_ablated, run_clean
from qkatlas.jobs.head_scan.shards import PROMPTS_PER_SHARD
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.prompts import DrawnPrompts
from qkatlas.jobs.inputs.settings import require_prompts
from qkatlas.jobs.loop.clock import Clock
from qkatlas.jobs.worker.tables import tokens_table
from qkatlas.outputs.runs.journal import Receipt
from qkatlas.outputs.runs.part import Part
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.shard import Shard
from qkatlas.outputs.schemas import ablation as schemas_ablation
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.passes.ablation import KINDS, Measurement
from qkatlas.pipeline.passes.components import CLEAN, Component, embeddings, of_layer, reached
from qkatlas.pipeline.passes.resampling import PairedBootstrap
from qkatlas.pipeline.text.passages import Passages, tokenise

_CLEAN, _ABLATED = "clean", "ablated"
"""Beginnings of the names of groups of shards."""


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Heads of a model, measured with one component at a time ablated."""

    targets: tuple[str, ...]
    """The heads that are measured."""
    layers: tuple[int, ...]
    """Layers whose components are ablated, beside the embeddings."""
    kind: str = "mean"
    """What takes the place of an output: `mean`, `zero` or `resample`."""
    prompts: int = 128
    """Prompts of category words."""
    length: int | None = None
    """Words in a prompt, and tokens in a window of the text; None = 64, or as many as the model reads after BOS."""
    categories: tuple[tuple[str, ...], ...] | None = None
    """The words of each category; None = the project's list."""
    loss: bool = True
    """Whether the next-token loss is taken too, which needs all layers and the unembedding."""
    text: str | None = None
    """The text that the loss is taken on; None = the prompts."""
    seed: int = 0
    """Seed of the prompts, of the partners and of the bootstrap intervals."""

    def __post_init__(self) -> None:
        if not self.targets:
            raise ValueError("--targets names no head; name at least one, for example L1H5")
        for target in self.targets:
            Head.parse(target)
        if self.kind not in KINDS:
            raise ValueError(f"--kind {self.kind!r} is unknown; choose one of {', '.join(KINDS)}")
        require_prompts(self.prompts, self.length, self.seed)
        if self.text is not None and not self.loss:
            raise ValueError("--text and --no-loss exclude each other, for the text serves the loss alone; drop one")


@dataclass(frozen=True)
class Corpus:
    """Passages, what is measured on them, and what is ablated meanwhile.

    Attributes:
        name: `prompts` or `text`.
        passages: the passages.
        measurement: what is measured.
        groups: components that are ablated, of the embeddings and of each layer.
    """

    name: str
    passages: Passages
    measurement: Measurement
    groups: tuple[tuple[Component, ...], ...]


class AblationJob:
    """How `ablation` is planned, computed and finished.

    The passages with nothing ablated are one stage, from which the means are taken; the ablations are the next.

    Args:
        spec: what is asked for.
        model: the model.

    Raises:
        ValueError: if the request does not fit the model.
    """

    name = "ablation"

    def __init__(self, spec: Ablation, model: Model) -> None:
        shape = model.checkpoint.architecture
        self.spec = spec
        self.model = model
        self.targets = sorted({Head.parse(name) for name in spec.targets})
        for target in self.targets:
            target.require_inside(shape.n_layers, shape.n_heads)
        self._layers = sorted(set(spec.layers))
        if self._layers and self._layers[-1] >= shape.n_layers:
            raise ValueError(f"--layers {self._layers[-1]} is outside the model; choose from 0 to {shape.n_layers - 1}")
        if spec.loss:
            model.checkpoint.require_unembedding("give --no-loss, or a checkpoint that has it")
        self.drawn = DrawnPrompts.draw(
            model, words=spec.categories, count=spec.prompts, length=spec.length, seed=spec.seed
        )
        self.length = self.drawn.length
        prompts = self.drawn.prompts
        if prompts is None:
            model.vocabulary.require_readable()
            raise ValueError(
                "the model has no prompts: no category keeps two words that are one token of its vocabulary, or it "
                "reads no word after BOS; give words of its own with --categories"
            )
        self._shared: tuple[Executor, Handle] | None = None
        text_W = None if spec.text is None else tokenise(model.checkpoint.path, spec.text, shape.vocab_size)
        self._text_W = text_W
        on_prompts = Measurement(tuple(self.targets), spec.loss and text_W is None)
        if self._layers and not spec.loss and self._layers[0] >= self.targets[-1].layer:
            raise ValueError(
                f"--layers from {self._layers[0]} on reach no target, the last of which is {self.targets[-1]}; "
                "choose lower layers, or leave out --no-loss"
            )
        self._corpora = [self._corpus("prompts", Passages.of_prompts(prompts), on_prompts)]
        if text_W is not None:
            text = Passages.of_text(text_W, bos=shape.require_bos(), length=self.length)
            self._corpora.append(self._corpus("text", text, Measurement((), True)))

    def _corpus(self, name: str, passages: Passages, measurement: Measurement) -> Corpus:
        if self.spec.kind == "resample":
            passages = passages.with_partners(self.spec.seed)
        groups = [embeddings(), *(of_layer(self.model.checkpoint.architecture, layer) for layer in self._layers)]
        used = [group for group in groups if measurement.loss or reached(group[0], measurement.heads)]
        return Corpus(name, passages, measurement, tuple(map(tuple, used)))

    def settings(self) -> dict[str, Any]:
        """The settings that change results; words and text count by the tokens they are."""
        spec = asdict(replace(self.spec, categories=None, text=None))
        del spec["categories"], spec["text"]
        text = None if self._text_W is None else hashlib.sha256(self._text_W.tobytes()).hexdigest()
        return {**spec, "layers": self._layers, "targets": list(map(str, self.targets)),
                **self.drawn.identity(), "text_tokens_sha256": text}  # fmt: skip

    def plan(self) -> list[Shard]:
        """Fixed ranges of the passages: with nothing ablated, then with the components of each layer."""
        ranges = [(corpus, *bounds) for corpus in self._corpora for bounds in _ranges(len(corpus.passages.tokens_PT))]
        shards = [
            Shard(f"clean-{corpus.name}-{start:06d}", f"{_CLEAN}-{corpus.name}", _bounds(start, stop))
            for corpus, start, stop in ranges
        ]
        for corpus, start, stop in ranges:
            for group in corpus.groups:
                layer = group[0].layer
                place = "embeddings" if layer is None else f"L{layer}"
                bounds = _bounds(start, stop) | ({} if layer is None else {"layer": layer})
                shards.append(Shard(f"{place}-{corpus.name}-{start:06d}", f"{_ABLATED}-{corpus.name}", bounds))
        return shards

    def covers(self, shards: Sequence[Shard]) -> bool:
        """Whether shards are the plan, which only the request decides."""
        return list(shards) == self.plan()

    def prepare(self, threads: int, clock: Clock) -> None:
        """Nothing: what the request asks of the model was checked when it was made."""

    def scores_in(self, shard: Shard) -> int:
        """Work of a shard in products as wide as a score's, weights and unembedding included."""
        shape = self.model.checkpoint.architecture
        corpus, components = self._corpus_of(shard), self._components_of(shard)
        first = components[0].first_layer_after
        depth = shape.n_layers if corpus.measurement.loss else max(corpus.measurement.layers()) + 1
        a_layer = (4 * shape.d_model + 2 * shape.d_mlp) * shape.d_model
        unembedding = shape.vocab_size * shape.d_model if corpus.measurement.loss else 0
        prefix = a_layer * first
        if components == [CLEAN]:
            prefix, passes = 0, a_layer * depth + unembedding
        else:
            passes = len(components) * (a_layer * (depth - first) + unembedding)
        tokens: int = (shard.bounds["stop"] - shard.bounds["start"]) * corpus.passages.tokens_PT.shape[1]
        return tokens * (prefix + passes) // shape.d_head

    def stages(self, missing: Sequence[Shard]) -> list[list[Shard]]:
        """The model as it is, then the ablations.

        Where shards of the former are missing, all ablations of their passages are looked at again: `tasks` leaves out
        those that stand on the same clean run.
        """
        clean = [shard for shard in missing if shard.group.startswith(_CLEAN)]
        again = {self._corpus_of(shard).name for shard in clean}
        names = {shard.name for shard in missing}
        ablated = [
            shard
            for shard in self.plan()
            if shard.group.startswith(_ABLATED) and (shard.name in names or self._corpus_of(shard).name in again)
        ]
        return [stage for stage in (clean, ablated) if stage]

    def tasks(
        self, stage: Sequence[Shard], run: Run, executor: Executor, threads: int, clock: Clock
    ) -> Iterator[tuple[Shard, tuple[Any, ...]]]:
        """The shards of a stage with what a worker needs for them; the weights are shared once."""
        key = self.model.identity["weights_sha256"]
        weights = self._shared_weights(executor)
        clock.lap("reading weights")
        for corpus in self._corpora:
            shards = [shard for shard in stage if self._corpus_of(shard) is corpus]
            work = Work(run.folder, corpus.name, corpus.measurement, self._summed_layers(corpus), self.spec.kind)
            if shards and shards[0].group.startswith(_CLEAN):
                for shard in shards:
                    yield shard, (work, key, weights, corpus.passages[_rows(shard)])
                continue
            clean = self._clean_parts(corpus, run) if shards else None
            if clean is None:
                continue
            digest = hashlib.sha256(key.encode())
            for part in clean:
                digest.update(part.sha256.encode())
            receipts = run.receipts()
            shared = executor.put(read_means(run, clean) if self.spec.kind == "mean" else {})
            for shard in shards:
                if shard.name in receipts and receipts[shard.name].inputs == digest.hexdigest():
                    continue
                passages, components = corpus.passages[_rows(shard)], self._components_of(shard)
                yield shard, (work, digest.hexdigest(), weights, passages, components, shared)

    def _summed_layers(self, corpus: Corpus) -> tuple[int, ...]:
        """Layers whose outputs' means are needed."""
        layers = [group[0].layer for group in corpus.groups]
        return tuple(layer for layer in layers if layer is not None and self.spec.kind == "mean")

    def _shared_weights(self, executor: Executor) -> Handle:
        """The weights, read and shared once for all stages."""
        if self._shared is None or self._shared[0] is not executor:
            self._shared = executor, executor.put(self.model.weights())
        return self._shared[1]

    def _clean_parts(self, corpus: Corpus, run: Run) -> list[Part] | None:
        """What was committed of some passages with nothing ablated; None unless all of it is there."""
        receipts = run.receipts()
        names = [shard.name for shard in self.plan() if shard.group == f"{_CLEAN}-{corpus.name}"]
        if any(name not in receipts for name in names):
            return None
        return [part for name in names for part in receipts[name].parts]

    @property
    def run_shard(self) -> Callable[..., Receipt]:
        """Computes a shard on a worker."""
        return run_passages

    def reduce(self, run: Run) -> list[Part]:
        """Write the tables of the whole run."""
        return [
            run.write_table("tokens.parquet", tokens_table(self.model)),
            run.write_table("prompts.parquet", self.drawn.table()),
            *self._write_effects(run),
        ]

    def _write_effects(self, run: Run) -> list[Part]:
        losses = self._losses(run) if self.spec.loss else []
        loss_delta = {row["component"]: row["loss_delta"] for row in losses}
        scores = [{**row, "loss_delta": loss_delta.get(row["component"])} for row in self._scores(run)]
        tables = [("ablation.parquet", scores, schemas_ablation.ABLATION)]
        if self.spec.loss:
            tables.append(("losses.parquet", losses, schemas_ablation.LOSSES))
        return [run.write_table(path, pa.Table.from_pylist(rows, schema=schema)) for path, rows, schema in tables]

    def _scores(self, run: Run) -> Iterator[dict[str, Any]]:
        """Rows of `ablation.parquet` but for the loss: components in order, and the heads each of them reaches."""
        corpus = self._corpora[0]
        clean_PZ = self._measured(run, corpus, (CLEAN,))[0]
        assert clean_PZ is not None, "targets are measured on the prompts"
        clean_PZ = clean_PZ[0]
        bootstrap = PairedBootstrap(np.ones(len(clean_PZ)), self.spec.seed)
        for group in ((CLEAN,), *corpus.groups):
            heads = reached(group[0], self.targets)
            scores_MPZ, _ = self._measured(run, corpus, group)
            if scores_MPZ is None:
                continue
            for component, scores_PZ in zip(group, scores_MPZ, strict=True):
                differences_PZ = scores_PZ - clean_PZ[:, len(self.targets) - len(heads) :]
                low_Z, high_Z = bootstrap.interval(differences_PZ)
                for place, head in enumerate(heads):
                    yield {
                        **_columns(component),
                        "target_layer": head.layer,
                        "target_head": head.index,
                        "score_mean": float(scores_PZ[:, place].mean()),
                        "score_std": float(scores_PZ[:, place].std()),
                        "delta": float(differences_PZ[:, place].mean()),
                        "delta_low": _or_none(low_Z[place]),
                        "delta_high": _or_none(high_Z[place]),
                        "n_prompts": len(scores_PZ),
                    }

    def _losses(self, run: Run) -> list[dict[str, Any]]:
        """Rows of `losses.parquet`."""
        corpus = self._corpora[-1]
        tokens_P = corpus.passages.predicted_PT.sum(axis=1)
        bootstrap = PairedBootstrap(tokens_P.astype(np.float64), self.spec.seed)
        clean_P = self._summed_losses(run, corpus, (CLEAN,))[0]
        rows = []
        for group in ((CLEAN,), *corpus.groups):
            for component, losses_P in zip(group, self._summed_losses(run, corpus, group), strict=True):
                differences_P = losses_P - clean_P
                low_1, high_1 = bootstrap.interval((differences_P / tokens_P)[:, None])
                rows.append({
                    **_columns(component),
                    "loss": float(losses_P.sum() / tokens_P.sum()),
                    "loss_delta": float(differences_P.sum() / tokens_P.sum()),
                    "loss_delta_low": _or_none(low_1[0]),
                    "loss_delta_high": _or_none(high_1[0]),
                    "n_passages": len(tokens_P),
                    "n_tokens": int(tokens_P.sum()),
                })  # fmt: skip
        return rows

    def _summed_losses(self, run: Run, corpus: Corpus, group: Sequence[Component]) -> np.ndarray:
        losses_MP = self._measured(run, corpus, group)[1]
        assert losses_MP is not None, "the corpus is the one that losses are taken on"
        return losses_MP

    def _measured(
        self, run: Run, corpus: Corpus, group: Sequence[Component]
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        receipts = run.receipts()
        names = [
            shard.name
            for shard in self.plan()
            if self._corpus_of(shard) is corpus and self._components_of(shard) == list(group)
        ]
        targets = len(reached(group[0], corpus.measurement.heads))
        return read_measured(run, [receipts[name] for name in names], group, targets)

    def _corpus_of(self, shard: Shard) -> Corpus:
        (corpus,) = [corpus for corpus in self._corpora if shard.group.endswith(f"-{corpus.name}")]
        return corpus

    def _components_of(self, shard: Shard) -> list[Component]:
        if shard.group.startswith(_CLEAN):
            return [CLEAN]
        (group,) = [group for group in self._corpus_of(shard).groups if group[0].layer == shard.bounds.get("layer")]
        return list(group)


def run_passages(grant: Grant, shard: Shard, *arguments: Any) -> Receipt:
    """Compute one shard and write its parts; runs on a worker.

    Raises:
        OSError: if a part cannot be written.
    """
    return (run_clean if shard.group.startswith(_CLEAN) else run_ablated)(grant, shard, *arguments)


def _columns(component: Component) -> dict[str, Any]:
    return {
        "component": component.name,
        "kind": component.kind,
        "layer": component.layer,
        "head": component.head,
    }


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _ranges(count: int) -> list[tuple[int, int]]:
    return [(start, min(start + PROMPTS_PER_SHARD, count)) for start in range(0, count, PROMPTS_PER_SHARD)]


def _bounds(start: int, stop: int) -> dict[str, int]:
    return {"start": start, "stop": stop, "part": start // PROMPTS_PER_SHARD}


def _rows(shard: Shard) -> slice:
    return slice(shard.bounds["start"], shard.bounds["stop"])
