"""How `reproduce` is planned, computed and finished: each published figure beside what the model shows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import pyarrow as pa
from rich.console import RenderableType

from qkatlas.jobs.inputs.chosen_states import ChosenStates
from qkatlas.jobs.inputs.dictionaries import dictionaries_of
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.opening import ModelJob, open_model
from qkatlas.jobs.inputs.prompts import DrawnPrompts
from qkatlas.jobs.loop.job import Host
from qkatlas.jobs.loop.step import AnyStep, Context, Step, nothing_more
from qkatlas.jobs.loop.table import Table
from qkatlas.jobs.reproduce import measures, published, work
from qkatlas.jobs.reproduce.answer import verdicts
from qkatlas.jobs.reproduce.published import DEFINED, PUBLISHED, Facts, frequent_tokens
from qkatlas.jobs.reproduce.sources import found_in, has_gpt2_vocabulary, has_words, keyword_words, source_jobs
from qkatlas.jobs.reproduce.spec import Reproduce
from qkatlas.jobs.reproduce.verdicts import Measured, absent, table
from qkatlas.jobs.worker.head_prompts import HeadPrompts
from qkatlas.jobs.worker.tables import PROMPT_SCORES, PROMPTS, TOKENS, tokens_table
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.shard import Shard
from qkatlas.outputs.schemas import reproduce as schemas
from qkatlas.pipeline.circuit.kin import unit_states
from qkatlas.pipeline.circuit.projection import bilinear_factors, head_inputs, head_weights
from qkatlas.pipeline.circuit.states import TokenStates
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.text.categories import Categories
from qkatlas.pipeline.text.prompts import CategoryPrompts

PROMPT_COUNT = 16
"""Prompts of category words for the scores of all heads; one was published."""

LONGEST = 255
"""Words of the published prompt of category words."""

_NOTEBOOK_PROMPTS, _NOTEBOOK_WORDS, _NOTEBOOK_CATEGORIES = 30, 12, 4

_PRINTED, _DRAWN, _SPECTRUM, _SIMILARITY, _BY_ROW, _BY_KEY = (
    "notebook-printed",
    "notebook-drawn",
    "spectrum",
    "similarity-by-key",
    "clusters-by-row",
    "clusters-by-key",
)
"""Shards of one figure or two each, beside those of the head scan's prompts; their group is their name."""

_BEHAVIOURS = (
    "previous_token_score",
    "duplicate_token_score",
    "induction_score",
    "prefix_induction_score_1",
    "prefix_induction_score_4",
)


class ReproduceJob(ModelJob[Reproduce]):
    """The prompts of a head scan, and a shard for each thing that no other job computes.

    Args:
        spec: what is asked for.
        model: the model.
        facts: the published figures.

    Attributes:
        runs: the finished runs that it stands on, by the names of `source_jobs`; all of them are there before it is
            submitted. A request that cannot be met is refused before the first of them is computed.
        tokens: the frequent tokens, the most frequent first: the user's, or GPT-2's where the model has its vocabulary;
            None where there is no list of them.

    Raises:
        ValueError: if the model has no such head, or no BOS, or lacks a token of the user's.
    """

    name = "reproduce"
    families = ("gpt2",)
    tables = (
        PROMPT_SCORES,
        TOKENS,
        PROMPTS,
        Table(name="notebook", rows="one row a head", schema=schemas.NOTEBOOK),
        Table(name="reproduction", rows="one row for each figure and variant", schema=schemas.REPRODUCTION),
    )
    shows = ("reproduction", "notebook", "prompt_scores")
    look = ("reproduction.parquet", ".verdict.value_counts()")
    opened = "preparing"

    def __init__(self, spec: Reproduce, model: Model, facts: Facts) -> None:
        super().__init__(spec, model)
        shape = model.checkpoint.architecture
        self.runs: dict[str, Run] = {}
        self._facts = facts
        self.tokens = self._frequent_tokens()
        self._head = Head.parse(facts.head)
        self._head.require_inside(shape.n_layers, shape.n_heads)
        self._heads = [Head(layer, head) for layer in range(shape.n_layers) for head in range(shape.n_heads)]
        words = keyword_words(facts)
        if has_words(words, model):
            length = min(LONGEST, shape.n_ctx - 1)
            self.drawn = DrawnPrompts.draw(model, words=words, count=PROMPT_COUNT, length=length, seed=spec.seed)
        else:
            self.drawn = DrawnPrompts(Categories.fit(words, model.vocabulary), 0, None)
        self._prompts = HeadPrompts(model, self._heads, self.drawn, states=ChosenStates(kind="mlp"), seed=spec.seed)
        self._notebook = self._notebook_prompts()
        self._inputs: work.FrequentTokens | None = None

    @classmethod
    def open(cls, spec: Reproduce, host: Host) -> Self:
        """Open the model, and finish every run of another job that the comparison stands on.

        Raises:
            ValueError: if there is no such model, or the request does not fit it.
            IncompleteError: if a run could not be finished.
        """
        facts = published.facts()
        given = spec.features
        dictionaries = [] if given is None else dictionaries_of(given, host.request.model, host.say)
        job = cls(spec, open_model(host), facts)
        for line in job._remarks():
            host.say(line)
        sources = source_jobs(
            facts, job.model, job.tokens, job.runs, seed=spec.seed, dictionaries=dictionaries
        )  # fmt: skip
        for name, source in sources:
            host.say(f"run {len(job.runs) + 1}: {name}")
            opened = "preparing" if job.runs else "opening the model"
            job.runs[name] = host.submit(source, opened=opened).require_complete()
        return job

    def _remarks(self) -> Iterable[str]:
        """What to know of the request before the first run."""
        if self.spec.frequencies is not None:
            yield from self.spec.frequencies.notes(self.model.vocabulary)
        if self.drawn.prompts is None and (dropped := self.drawn.dropped()):  # the ablation says it otherwise
            yield dropped

    def notes(self) -> Iterable[str]:
        """What comes after the runs of other jobs."""
        return ("the comparison, and what no other job computes",)

    def _frequent_tokens(self) -> tuple[int, ...] | None:
        given = self.spec.frequencies
        if given is not None:
            given.require_inside(len(self.model.vocabulary.spellings))
            return given.token_ids[: max(self._facts.data["frequent_tokens"].values())]
        return frequent_tokens() if has_gpt2_vocabulary(self._facts, self.model) else None

    def settings(self) -> dict[str, Any]:
        """The settings that change results: the runs it stands on, the facts, the tokens and the prompts."""
        tokens = None
        if self.tokens is not None:
            digest = hashlib.sha256(np.array(self.tokens, "<i4").tobytes()).hexdigest()
            tokens = {"count": len(self.tokens), "sha256": digest}
        return {
            "head": self._facts.head,
            "sources": {name: run.folder.name.rpartition("-")[2] for name, run in self.runs.items()},
            "facts_sha256": self._facts.sha256,
            "tokens": tokens,
            "prompts": PROMPT_COUNT,
            "seed": self.spec.seed,
            **self.drawn.identity(),
        }

    def steps(self) -> Sequence[AnyStep]:
        """The prompts of a head scan, then the rest: so the model's weights are shared once at a time."""
        prompts = self._prompts.step()
        steps: list[AnyStep] = [prompts]
        if self._notebook:
            steps.append(
                Step(
                    kind="notebook",
                    shards=[_alone(name, "notebook") for name in self._notebook],
                    share=lambda context: work.SharedModel(self.model.weights()),
                    each=lambda shard: self._notebook[shard.name],
                    compute=work.run_masked,
                    after=(prompts,),
                    per_device=True,
                )
            )
        steps.append(
            Step(
                kind="spectrum",
                shards=[_alone(_SPECTRUM, "spectrum")],
                share=lambda context: self._factors(),
                each=lambda shard: self.spec.seed,
                compute=work.run_spectrum,
            )
        )
        return steps if self.tokens is None else [*steps, *self._frequent_steps(self.tokens)]

    def _frequent_steps(self, tokens: tuple[int, ...]) -> Sequence[AnyStep]:
        """What is computed of the frequent tokens."""
        counts = self._facts.data["frequent_tokens"]
        by_row, by_key = _alone(_BY_ROW, "clusters"), _alone(_BY_KEY, "clusters")
        return [
            Step(
                kind="similarity",
                shards=[_alone(_SIMILARITY, "similarity")],
                share=lambda context: self._frequent(tokens, context.threads).first(counts["similarity"]),
                each=nothing_more,
                compute=work.run_similarity,
            ),
            Step(
                kind="clusters",
                shards=[by_row, by_key],
                share=lambda context: self._frequent(tokens, context.threads).first(counts["clusters"]).inputs,
                each=lambda shard: work.Linking(swapped=shard == by_key, seed=self.spec.seed),
                compute=work.run_clusters,
            ),
        ]

    def prepare(self, context: Context) -> None:
        """Compute queries and keys of the frequent tokens, before anything is written.

        Raises:
            ValueError: if they or their scores leave the range of float32.
        """
        if self.tokens is not None:
            self._frequent(self.tokens, context.threads)
        context.clock.lap("states, queries and keys")

    def _frequent(self, tokens: tuple[int, ...], threads: int) -> work.FrequentTokens:
        """Unit states, queries and keys of the frequent tokens, computed once."""
        if self._inputs is None:
            states = TokenStates(self.model.checkpoint, "mlp", token_ids=list(tokens), threads=threads)
            states_ND = states.advance_to(self._head.layer)
            inputs = head_inputs(head_weights(self.model.checkpoint, self._head), states_ND, threads=threads)
            norm = self.model.checkpoint.architecture.norm
            self._inputs = work.FrequentTokens(unit_states(states_ND, norm, threads=threads), inputs)
        return self._inputs

    def _factors(self) -> work.HeadFactors:
        """Folded W'_Q and W'_K, and as the authors' library has them: centred over the residual stream's width."""
        own = bilinear_factors(self.model.checkpoint, self._head)
        w_q_DH, w_k_DH = (w_DH - w_DH.mean(axis=0) for w_DH in own)
        return work.HeadFactors(self._head, {DEFINED: own, PUBLISHED: (w_q_DH, w_k_DH)})

    def _notebook_prompts(self) -> dict[str, CategoryPrompts]:
        """The notebook's printed prompt, where its ids mean its words, and prompts drawn as it draws them."""
        facts, shape = self._facts.data["notebook"], self.model.checkpoint.architecture
        found = {}
        if has_gpt2_vocabulary(self._facts, self.model):
            ids, categories = (np.array([facts[name]]) for name in ("prompt_ids", "prompt_categories"))
            found[_PRINTED] = CategoryPrompts(ids, categories)
        words = tuple(map(tuple, facts["categories"]))
        if has_words(words, self.model) and shape.n_ctx > _NOTEBOOK_WORDS:
            found[_DRAWN] = CategoryPrompts.draw(
                Categories.fit(words, self.model.vocabulary),
                bos=shape.require_bos(),
                count=_NOTEBOOK_PROMPTS,
                length=_NOTEBOOK_WORDS,
                seed=self.spec.seed,
                per_prompt=_NOTEBOOK_CATEGORIES,
            )
        return found

    def reduce(self, run: Run) -> Mapping[str, pa.Table]:
        """The tokens, the prompts, the notebook's scores, and the comparison."""
        summaries = {name: receipt.summary for name, receipt in run.receipts().items()}
        found = found_in(self._facts, self.model, self.runs) | self._of_prompts(run) | self._of_notebook(summaries)
        found |= self._of_spectrum(summaries[_SPECTRUM]["spectrum"])
        if self.tokens is not None:
            by_key = pa.table(summaries[_SIMILARITY]["similarity"])
            found |= measures.similarity(PUBLISHED, by_key)
            for variant, name in ((DEFINED, _BY_ROW), (PUBLISHED, _BY_KEY)):
                found |= measures.clusters(variant, **summaries[name]["clusters"])
        return {
            "tokens": tokens_table(self.model),
            "prompts": self.drawn.table(),
            "notebook": self._notebook_table(summaries),
            "reproduction": table(self._facts, found),
        }

    def answer(self, run: Run) -> RenderableType:
        """Every figure with its verdict."""
        return verdicts(run)

    def _of_prompts(self, run: Run) -> dict[tuple[str, str], Measured]:
        """Semantic Category Scores and behaviours of all heads."""
        columns = self._prompts.columns(run)
        found = {
            name: {head: value for head, row in columns.items() if (value := row.get(name)) is not None}
            for name in ("semantic_category_score_mean", *_BEHAVIOURS)
        }
        scores = found.pop("semantic_category_score_mean")
        known = measures.known_heads(self._facts, {name: heads for name, heads in found.items() if heads})
        if not scores:
            return known | measures.all_absent(self._facts, "semantic", "no prompt of category words can be made")
        return known | measures.semantic(self._facts, scores)

    def _of_notebook(self, summaries: Mapping[str, Any]) -> dict[tuple[str, str], Measured]:
        found = {
            ("notebook.score", PUBLISHED): absent("the printed token ids are GPT-2's"),
            ("notebook.place", DEFINED): absent("no category of the notebook keeps two words of the vocabulary"),
        }
        if _PRINTED in self._notebook:
            attention = self._by_head(summaries[_PRINTED]["masked"])
            found["notebook.score", PUBLISHED] = Measured(value=attention[self._head])
        if _DRAWN in self._notebook and summaries[_DRAWN]["masked"] is not None:
            attention = self._by_head(summaries[_DRAWN]["masked"])
            found["notebook.place", DEFINED] = measures.notebook_place(self._facts, attention)
        return found

    def _of_spectrum(self, variants: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, str], Measured]:
        shape, expected = self.model.checkpoint.architecture, self._facts.data["shape"]
        if (shape.d_model, shape.d_head) != (expected["d_model"], expected["d_head"]):
            reason = f"the head is {shape.d_model} x {shape.d_head}, the published one 768 x 64"
            return measures.all_absent(self._facts, "spectrum", reason)
        figures = {variant: measures.SpectrumFigures(**values) for variant, values in variants.items()}
        return measures.spectrum(figures)

    def _by_head(self, masked_LN: Sequence[Sequence[float]]) -> dict[Head, float]:
        return {head: masked_LN[head.layer][head.index] for head in self._heads}

    def _notebook_table(self, summaries: Mapping[str, Any]) -> pa.Table:
        columns = {}
        for name in (_DRAWN, _PRINTED):
            masked = summaries[name]["masked"] if name in self._notebook else None
            columns[name] = dict.fromkeys(self._heads) if masked is None else self._by_head(masked)
        rows = [
            {
                "layer": head.layer,
                "head": head.index,
                "masked_attention": columns[_DRAWN][head],
                "masked_attention_printed": columns[_PRINTED][head],
            }
            for head in self._heads
        ]
        return pa.Table.from_pylist(rows, schema=schemas.NOTEBOOK)


def _alone(name: str, kind: str) -> Shard:
    """A shard that is a group of its own."""
    return Shard(name, name, {}, kind)
