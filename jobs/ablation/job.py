"""How `ablation` is planned, computed and finished: what every head's behaviour rests on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa
from rich.console import Group

from qkatlas.jobs.ablation.answer import causes
from qkatlas.jobs.ablation.choice import choose_layers, choose_targets
from qkatlas.jobs.ablation.committed import read_means, unchanged_parts
from qkatlas.jobs.ablation.corpus import ABLATED, UNCHANGED, Corpus, of_corpus, of_source
from qkatlas.jobs.ablation.effects import loss_rows, score_rows
from qkatlas.jobs.ablation.spec import Ablation
from qkatlas.jobs.ablation.work import Piece, Replaced, Unchanged, run_ablated, run_unchanged
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.opening import ModelJob
from qkatlas.jobs.inputs.prompts import DrawnPrompts
from qkatlas.jobs.loop.step import AnyStep, Context, Step
from qkatlas.jobs.loop.table import Table
from qkatlas.jobs.worker.tables import PROMPTS, TOKENS, tokens_table
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.shard import Shard
from qkatlas.outputs.schemas import ablation as schemas
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.passes.ablation import Measurement
from qkatlas.pipeline.passes.components import embeddings, of_layer, reached
from qkatlas.pipeline.text.passages import Passages, tokenise

_SOURCES = {"source": "S"}

ABLATION = Table(
    name="ablation", rows="one row for each component and head it reaches", schema=schemas.ABLATION
)  # fmt: skip
LOSSES = Table(name="losses", rows="one row a component", schema=schemas.LOSSES, when="without --no-loss")
PROMPT_SCORES = Table(
    name="prompt_scores", rows="one row for each component, prompt and head; S: none, embeddings, L0, L1 and so on",
    schema=schemas.PROMPT_SCORES, file="prompt_scores/source={source}/part-{part:05d}.parquet", fields=of_source,
    shown=_SOURCES,
)  # fmt: skip
PASSAGE_LOSSES = Table(
    name="passage_losses", rows="one row for each component and passage; S: none, embeddings, L0, L1 and so on",
    schema=schemas.PASSAGE_LOSSES, file="passage_losses/source={source}/part-{part:05d}.parquet", fields=of_source,
    shown=_SOURCES, when="without --no-loss",
)  # fmt: skip
OUTPUT_SUMS = Table(
    name="output_sums", rows="one row for each output; C: prompts or text", schema=schemas.output_sums(768),
    file="output_sums/corpus={corpus}/part-{part:05d}.parquet", fields=of_corpus, kinds=(UNCHANGED,),
    when="--kind mean",
)  # fmt: skip


class AblationJob(ModelJob[Ablation]):
    """Passages with the model as it is, from which the means are taken; then the same with components ablated.

    Args:
        spec: what is asked for.
        model: the model.

    Attributes:
        targets: the heads that are measured, by layer and place.
        drawn: the category prompts.

    Raises:
        ValueError: if the request does not fit the model.
    """

    name = "ablation"
    tables = (TOKENS, PROMPTS, ABLATION, LOSSES, PROMPT_SCORES, PASSAGE_LOSSES, OUTPUT_SUMS)
    shows = ("ablation", "losses", "prompt_scores")
    look = ("ablation.parquet", '.nlargest(10, "delta")')

    def __init__(self, spec: Ablation, model: Model) -> None:
        super().__init__(spec, model)
        shape = model.checkpoint.architecture
        self.targets = choose_targets(spec.targets, shape)
        last = self.targets[-1].layer
        self._layers = choose_layers(spec.layers, last if spec.targets else shape.n_layers, shape)
        self._shown = None if spec.head is None else Head.parse(spec.head)
        if self._shown is not None and self._shown not in self.targets:
            raise ValueError(f"--head {spec.head} is not among the measured heads; name one that --targets names")
        if spec.loss:
            model.checkpoint.require_unembedding("give --no-loss, or a checkpoint that has it")
        self.drawn = DrawnPrompts.draw(
            model, words=spec.categories, count=spec.prompts, length=spec.length, seed=spec.seed
        )
        prompts = self.drawn.prompts
        if prompts is None:
            model.vocabulary.require_readable()
            raise ValueError(
                "the model has no prompts: no category keeps two words that are one token of its vocabulary, or it "
                "reads no word after BOS; give words of its own with --categories"
            )
        self._text_W = None if spec.text is None else tokenise(model.checkpoint.path, spec.text, shape.vocab_size)
        if self._layers and not spec.loss and self._layers[0] >= last:
            raise ValueError(
                f"--layers from {self._layers[0]} on reach no target, the last of which is {self.targets[-1]}; "
                "choose lower layers, or leave out --no-loss"
            )
        on_prompts = Measurement(self.targets, spec.loss and self._text_W is None)
        self._corpora = [self._corpus("prompts", Passages.of_prompts(prompts), on_prompts)]
        if self._text_W is not None:
            text = Passages.of_text(self._text_W, bos=shape.require_bos(), length=self.drawn.length)
            self._corpora.append(self._corpus("text", text, Measurement((), True)))

    def _corpus(self, name: str, passages: Passages, measurement: Measurement) -> Corpus:
        if self.spec.kind == "resample":
            passages = passages.with_partners(self.spec.seed)
        shape = self.model.checkpoint.architecture
        groups = [embeddings(shape), *(of_layer(shape, layer) for layer in self._layers)]
        used = [group for group in groups if measurement.loss or reached(group[0], measurement.heads)]
        return Corpus(name=name, passages=passages, measurement=measurement, groups=tuple(map(tuple, used)))

    def settings(self) -> dict[str, Any]:
        """The settings that change results; words and text count by the tokens they are."""
        spec = asdict(replace(self.spec, categories=None, text=None))
        del spec["categories"], spec["text"], spec["head"]
        text = None if self._text_W is None else hashlib.sha256(self._text_W.tobytes()).hexdigest()
        return {**spec, "layers": list(self._layers), "targets": list(map(str, self.targets)),
                **self.drawn.identity(), "text_tokens_sha256": text}  # fmt: skip

    def notes(self) -> Iterable[str]:
        """Words that the prompts leave out."""
        dropped = self.drawn.dropped()
        return () if dropped is None else (dropped,)

    def steps(self) -> Sequence[AnyStep]:
        """Each corpus with nothing ablated, then each of them with the components of one layer after the other."""
        clean = [self._unchanged_step(corpus) for corpus in self._corpora]
        pairs = zip(self._corpora, clean, strict=True)
        return [*clean, *(self._ablated_step(corpus, before) for corpus, before in pairs)]

    def _unchanged_step(self, corpus: Corpus) -> Step[Unchanged, Passages]:
        layers = [group[0].layer for group in corpus.groups]
        summed = tuple(layer for layer in layers if layer is not None) if self.spec.kind == "mean" else None

        def share(context: Context) -> Unchanged:
            return Unchanged(weights=self.model.weights(), measurement=corpus.measurement, summed=summed)

        return Step(
            kind=UNCHANGED,
            shards=corpus.unchanged(),
            share=share,
            each=lambda shard: corpus.passages[shard.rows],
            compute=run_unchanged,
            preparing="reading weights",
        )

    def _ablated_step(self, corpus: Corpus, before: Step[Unchanged, Passages]) -> Step[Replaced, Piece]:
        def share(context: Context) -> Replaced | None:
            parts = unchanged_parts(context.run, corpus)
            if parts is None:
                return None
            digest = hashlib.sha256(self.model.identity["weights_sha256"].encode())
            for part in parts:
                digest.update(part.sha256.encode())
            return Replaced(
                weights=self.model.weights(),
                measurement=corpus.measurement,
                kind=self.spec.kind,
                means=read_means(context.run, parts) if self.spec.kind == "mean" else {},
                made_from=digest.hexdigest(),
            )

        return Step(
            kind=ABLATED,
            shards=corpus.ablated(),
            share=share,
            each=lambda shard: Piece(passages=corpus.passages[shard.rows], components=corpus.components(shard)),
            compute=run_ablated,
            after=(before,),
            preparing="reading weights",
        )

    def scores_in(self, shard: Shard) -> int:
        """Work of a shard in products as wide as a score's, weights and unembedding included."""
        (corpus,) = [corpus for corpus in self._corpora if corpus.name == of_corpus(shard)["corpus"]]
        return corpus.products(shard, self.model.checkpoint.architecture)

    def reduce(self, run: Run) -> Mapping[str, pa.Table]:
        """The tokens, the prompts, and what every component's absence changes."""
        seed = self.spec.seed
        losses = list(loss_rows(run, self._corpora[-1], seed=seed)) if self.spec.loss else []
        loss_delta = {row["component"]: row["loss_delta"] for row in losses}
        scores = [
            {**row, "loss_delta": loss_delta.get(row["component"])}
            for row in score_rows(run, self._corpora[0], self.targets, seed=seed)
        ]
        found = {
            "tokens": tokens_table(self.model),
            "prompts": self.drawn.table(),
            "ablation": pa.Table.from_pylist(scores, schema=schemas.ABLATION),
        }
        if self.spec.loss:
            found["losses"] = pa.Table.from_pylist(losses, schema=schemas.LOSSES)
        return found

    def answer(self, run: Run) -> Group:
        """What one head rests on, and the strongest effects of heads on heads."""
        return causes(run, self._shown)
