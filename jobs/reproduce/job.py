"""`submit reproduce`: the published figures of GPT-2 small's L1H5 beside what a model shows, one row each."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from qkatlas.cluster.executor import Executor, Grant
from qkatlas.jobs.head_scan.shards import CATEGORY_PROMPTS, SEQUENCES
from qkatlas.jobs.inputs.frequencies import Frequencies
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.prompts import DrawnPrompts
from qkatlas.jobs.inputs.settings import require_prompts
from qkatlas.jobs.loop.clock import Clock
from qkatlas.jobs.loop.cost import cost_of
from qkatlas.jobs.reproduce import measures, work
from qkatlas.jobs.reproduce.published import DEFINED, PUBLISHED, Facts, frequent_tokens
from qkatlas.jobs.reproduce.sources import found_in, has_gpt2_vocabulary, has_words, keyword_words
from qkatlas.jobs.reproduce.verdicts import Measured, absent, table
from qkatlas.jobs.worker.head_prompts import HeadPrompts, run_prompts, run_sequences
from qkatlas.jobs.worker.tables import tokens_table
from qkatlas.outputs.runs.journal import Receipt
from qkatlas.outputs.runs.part import Part
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.shard import Shard
from qkatlas.outputs.schemas import reproduce as schemas_reproduction
from qkatlas.pipeline.circuit.kin import unit_states
from qkatlas.pipeline.circuit.projection import HeadInputs, bilinear_factors, head_inputs, head_weights
from qkatlas.pipeline.circuit.states import TokenStates
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.text.categories import Categories
from qkatlas.pipeline.text.prompts import CategoryPrompts

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


@dataclass(frozen=True, kw_only=True)
class Reproduce:
    """A comparison with the published figures."""

    tokens: tuple[int, ...] | None = None
    """Frequent tokens, the most frequent first; None = there is no list of them."""
    prompts: int = 16
    """Prompts of category words for the scores of all heads; one was published."""
    seed: int = 0
    """Seed of the prompts, of random heads and of Leiden."""

    def __post_init__(self) -> None:
        require_prompts(self.prompts, None, self.seed)


def choose_tokens(facts: Facts, model: Model, given: Frequencies | None) -> tuple[int, ...] | None:
    """The frequent tokens that a request means: the user's, or GPT-2's where the model has its vocabulary.

    Args:
        facts: the published figures.
        model: the model.
        given: `--frequencies`.

    Returns:
        Token ids, the most frequent first, as many as are needed; None where neither applies.

    Raises:
        ValueError: if the vocabulary lacks a token of the user's.
    """
    if given is not None:
        given.require_inside(len(model.vocabulary.spellings))
        return given.token_ids[: max(facts.data["frequent_tokens"].values())]
    return frequent_tokens() if has_gpt2_vocabulary(facts, model) else None


class ReproduceJob:
    """How `reproduce` is planned, computed and finished.

    Args:
        spec: what is asked for.
        facts: the published figures.
        model: the model.

    Attributes:
        runs: the finished runs that it stands on, by the names of `jobs.reproduce.sources`; all of them are there
            before it is submitted. A request that cannot be met is refused before the first of them is computed.

    Raises:
        ValueError: if the model has no such head, or no BOS.
    """

    name = "reproduce"

    def __init__(self, spec: Reproduce, facts: Facts, model: Model) -> None:
        shape = model.checkpoint.architecture
        self.spec = spec
        self.model = model
        self.runs: dict[str, Run] = {}
        self._facts = facts
        self._head = Head.parse(facts.head)
        self._head.require_inside(shape.n_layers, shape.n_heads)
        self._heads = [Head(layer, head) for layer in range(shape.n_layers) for head in range(shape.n_heads)]
        words = keyword_words(facts)
        if has_words(words, model):
            length = min(LONGEST, shape.n_ctx - 1)
            self.drawn = DrawnPrompts.draw(model, words=words, count=spec.prompts, length=length, seed=spec.seed)
        else:
            self.drawn = DrawnPrompts(Categories.fit(words, model.vocabulary), 0, None)
        self._prompts = HeadPrompts(model, self._heads, self.drawn, seed=spec.seed)
        self._notebook = self._notebook_prompts()
        self._inputs: tuple[np.ndarray, HeadInputs] | None = None

    def settings(self) -> dict[str, Any]:
        """The settings that change results: the runs it stands on, the facts, the tokens and the prompts."""
        tokens = None
        if self.spec.tokens is not None:
            digest = hashlib.sha256(np.array(self.spec.tokens, "<i4").tobytes()).hexdigest()
            tokens = {"count": len(self.spec.tokens), "sha256": digest}
        return {
            "head": self._facts.head,
            "sources": {name: run.folder.name.rpartition("-")[2] for name, run in self.runs.items()},
            "facts_sha256": self._facts.sha256,
            "tokens": tokens,
            "prompts": self.spec.prompts,
            "seed": self.spec.seed,
            **self.drawn.identity(),
        }

    def plan(self) -> list[Shard]:
        """The prompts of a head scan, and a shard for each thing that no other job computes."""
        names = [*self._notebook, _SPECTRUM]
        if self.spec.tokens is not None:
            names += [_SIMILARITY, _BY_ROW, _BY_KEY]
        return [*self._prompts.shards(), *(Shard(name, name, {}) for name in names)]

    def covers(self, shards: Sequence[Shard]) -> bool:
        """Whether shards are the plan, which only the request decides."""
        return list(shards) == self.plan()

    def prepare(self, threads: int, clock: Clock) -> None:
        """Compute queries and keys of the frequent tokens, before anything is written.

        Raises:
            ValueError: if they or their scores leave the range of float32.
        """
        if self.spec.tokens is not None:
            self._frequent(self.spec.tokens, threads)
        clock.lap("states, queries and keys")

    def scores_in(self, shard: Shard) -> int:
        """None worth counting."""
        return 0

    def stages(self, missing: Sequence[Shard]) -> list[list[Shard]]:
        """The head scan's prompts, then the rest: so the model's weights are shared once at a time."""
        prompts = [shard for shard in missing if shard.group in (CATEGORY_PROMPTS, SEQUENCES)]
        return [stage for stage in (prompts, [shard for shard in missing if shard not in prompts]) if stage]

    def tasks(
        self, stage: Sequence[Shard], run: Run, executor: Executor, threads: int, clock: Clock
    ) -> Iterator[tuple[Shard, tuple[Any, ...]]]:
        """The shards of a stage with what a worker needs for them."""
        if stage[0].group in (CATEGORY_PROMPTS, SEQUENCES):
            yield from self._prompts.tasks(stage, run, executor, threads, clock)
            return
        key = self.model.identity["weights_sha256"]
        if any(shard.name in self._notebook for shard in stage):
            weights = executor.put(self.model.weights())
        for shard in stage:
            if shard.name in self._notebook:
                yield shard, (key, weights, self._notebook[shard.name])
            elif shard.name == _SPECTRUM:
                yield shard, (key, self._factors(), self._head, self.spec.seed)
            else:
                yield shard, self._frequent_task(shard, threads)

    def _frequent_task(self, shard: Shard, threads: int) -> tuple[Any, ...]:
        """Arguments of a shard of the frequent tokens."""
        assert self.spec.tokens is not None
        counts = self._facts.data["frequent_tokens"]
        unit_ND, inputs = self._frequent(self.spec.tokens, threads)
        if shard.name == _SIMILARITY:
            unit_ND, inputs = unit_ND[: counts["similarity"]], _first(inputs, counts["similarity"])
            return _digest(unit_ND, inputs.queries_VH, inputs.keys_VH), unit_ND, inputs
        inputs = _first(inputs, counts["clusters"])
        inputs = inputs if shard.name == _BY_ROW else work.swap(inputs)
        return _digest(inputs.queries_VH, inputs.keys_VH), inputs, self.spec.seed

    def _frequent(self, tokens: tuple[int, ...], threads: int) -> tuple[np.ndarray, HeadInputs]:
        """Unit states, queries and keys of the frequent tokens, computed once."""
        if self._inputs is None:
            states = TokenStates(self.model.checkpoint, "mlp", token_ids=list(tokens), threads=threads)
            states_ND = states.advance_to(self._head.layer)
            weights = head_weights(self.model.checkpoint, self._head)
            self._inputs = unit_states(states_ND, threads=threads), head_inputs(weights, states_ND, threads=threads)
        return self._inputs

    def _factors(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Folded W'_Q and W'_K, and as the authors' library has them: centred over the residual stream's width."""
        own = bilinear_factors(self.model.checkpoint, self._head)
        w_q_DH, w_k_DH = (w_DH - w_DH.mean(axis=0) for w_DH in own)
        return {DEFINED: own, PUBLISHED: (w_q_DH, w_k_DH)}

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

    @staticmethod
    def run_shard(grant: Grant, shard: Shard, *arguments: Any) -> Receipt:
        """Compute one shard; runs on a worker.

        Raises:
            OSError: if a part cannot be written.
        """
        started = time.perf_counter()
        digest, parts, summary = _WORK[shard.group](grant, shard, *arguments)
        cost = cost_of(grant, started)
        return Receipt(shard=shard.name, inputs=digest, parts=parts, measures=cost, summary=summary)

    def reduce(self, run: Run) -> list[Part]:
        """Compare, and write the tables of the whole run."""
        summaries = {name: receipt.summary for name, receipt in run.receipts().items()}
        found = found_in(self._facts, self.model, self.runs) | self._of_prompts(run) | self._of_notebook(summaries)
        found |= self._of_spectrum(summaries[_SPECTRUM]["spectrum"])
        if self.spec.tokens is not None:
            by_key = pa.table(summaries[_SIMILARITY]["similarity"])
            found |= measures.similarity(PUBLISHED, by_key)
            for variant, name in ((DEFINED, _BY_ROW), (PUBLISHED, _BY_KEY)):
                found |= measures.clusters(variant, **summaries[name]["clusters"])
        return [
            run.write_table("tokens.parquet", tokens_table(self.model)),
            run.write_table("prompts.parquet", self.drawn.table()),
            run.write_table("notebook.parquet", self._notebook_table(summaries)),
            run.write_table("reproduction.parquet", table(self._facts, found)),
        ]

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
        shape, published = self.model.checkpoint.architecture, self._facts.data["shape"]
        if (shape.d_model, shape.d_head) != (published["d_model"], published["d_head"]):
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
        return pa.Table.from_pylist(rows, schema=schemas_reproduction.NOTEBOOK)


_WORK: Mapping[str, Any] = {
    CATEGORY_PROMPTS: run_prompts,
    SEQUENCES: run_sequences,
    _PRINTED: work.run_masked,
    _DRAWN: work.run_masked,
    _SPECTRUM: work.run_spectrum,
    _SIMILARITY: work.run_similarity,
    _BY_ROW: work.run_clusters,
    _BY_KEY: work.run_clusters,
}


def _first(inputs: HeadInputs, count: int) -> HeadInputs:
    return HeadInputs(inputs.queries_VH[:count], inputs.keys_VH[:count], inputs.scale)


def _digest(*values: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in values:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
