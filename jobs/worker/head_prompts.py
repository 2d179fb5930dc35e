"""The part of a head scan that runs the model: Semantic Category Scores, fidelity and behaviours on prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from qkatlas.cluster.executor import Grant
from qkatlas.jobs.inputs.chosen_states import ChosenStates
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.prompts import DrawnPrompts
from qkatlas.jobs.loop.step import Context, Produced, Step
from qkatlas.jobs.worker.prompt_shards import CATEGORY_PROMPTS, SEQUENCES, prompt_shards
from qkatlas.outputs.runs.reader import read_parts
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.shard import Shard
from qkatlas.outputs.schemas import head_scan as schemas_heads
from qkatlas.pipeline.circuit.kinds import STATES
from qkatlas.pipeline.circuit.states import States, TokenStates
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.models.weights import ModelWeights
from qkatlas.pipeline.passes.behaviour import Sequences, base_rates, block_length, draw_sequences
from qkatlas.pipeline.passes.fidelity import correlation, row_figures
from qkatlas.pipeline.passes.prompt_measures import OFFSET_ONLY, PromptStates, measure_prompts, measure_sequences
from qkatlas.pipeline.passes.semantic import mean_and_std
from qkatlas.pipeline.text.prompts import CategoryPrompts

Passages = CategoryPrompts | Sequences
"""What one shard runs the model on."""


@dataclass(frozen=True, kw_only=True)
class PromptInputs:
    """What all prompts and sequences share.

    Attributes:
        weights: the model.
        heads: the heads that are measured.
        states: token states that real scores are compared with; None where there are no category prompts.
    """

    weights: ModelWeights
    heads: Sequence[Head]
    states: PromptStates | None

    def identity(self) -> str:
        """SHA-256 of the weights' own and of the states."""
        digest = hashlib.sha256(self.weights.key.encode())
        for by_layer in self.states.states.values() if self.states else ():
            for states_UD in by_layer.values():
                digest.update(states_UD.data)
        return digest.hexdigest()


class HeadPrompts:
    """What a head scan runs the model on.

    Args:
        model: the model.
        heads: the heads that are scanned, by layer and place.
        drawn: the category prompts.
        states: the token states that the run takes its scores from.
        seed: of the behaviour sequences.
    """

    def __init__(
        self, model: Model, heads: Sequence[Head], drawn: DrawnPrompts, *, states: ChosenStates, seed: int
    ) -> None:
        self._own = states
        self._model = model
        self._heads = tuple(heads)
        self._layers = _layers(heads)
        self._prompts = drawn.prompts
        architecture, ordinary = model.checkpoint.architecture, model.ordinary_tokens()
        block = block_length(architecture.n_ctx, len(ordinary))
        bos = architecture.require_bos()
        self.sequences = draw_sequences(ordinary, bos=bos, block=block, seed=seed) if block else []

    def step(self) -> Step[PromptInputs, Passages]:
        """Prompts and sequences in one step, so that the model's weights are shared once."""
        return Step(
            kind=CATEGORY_PROMPTS,
            shards=self._shards(),
            share=self._share,
            each=self._passages,
            compute=run_prompts,
            preparing="token states",
            per_device=True,
        )

    def _shards(self) -> list[Shard]:
        return prompt_shards(len(self._prompts.tokens_PT) if self._prompts else 0, len(self.sequences))

    def _share(self, context: Context) -> PromptInputs:
        states = self._states(self._prompts, context.threads) if self._prompts else None
        return PromptInputs(weights=self._model.weights(), heads=self._heads, states=states)

    def _passages(self, shard: Shard) -> Passages:
        if shard.kind == SEQUENCES:
            return self.sequences[shard.bounds["sequence"]]
        assert self._prompts is not None, "there are no shards of them otherwise"
        return self._prompts[shard.rows]

    def _states(self, prompts: CategoryPrompts, threads: int) -> PromptStates:
        """All kinds of states of the prompts' tokens, for every layer that is scanned."""
        token_ids = np.unique(prompts.tokens_PT).tolist()
        last = self._layers[-1]
        means_LD = self._model.attention_means(last, threads=threads) if last else None
        begun: dict[str, States] = {
            kind: TokenStates(
                self._model.checkpoint, kind, token_ids=token_ids, attention_means_LD=means_LD, threads=threads
            )
            for kind in STATES
        }
        if self._own.kind not in begun:
            begun[self._own.kind] = self._own.begin(self._model, layer=last, token_ids=token_ids, threads=threads)
        # One kind after the other: they need not be held in every layer at a time.
        found = {kind: {layer: states.advance_to(layer) for layer in self._layers} for kind, states in begun.items()}
        return PromptStates(token_ids, found, self._own.kind)

    def columns(self, run: Run) -> dict[Head, dict[str, float | None]]:
        """The columns of every head that come from prompts; None where the model or its words allow none."""
        receipts = run.receipts()
        mine = [receipts[shard.name] for shard in self._shards()]
        found: dict[Head, dict[str, float | None]] = {head: {} for head in self._heads}
        if self._prompts:
            table = read_parts(run, [part for receipt in mine for part in receipt.parts])
            scores_PN = table["semantic_category_score"].to_numpy().reshape(-1, len(self._heads))
            for head, scores_P in zip(self._heads, scores_PN.T, strict=True):
                mean, std = mean_and_std(scores_P)
                found[head] |= {"semantic_category_score_mean": mean, "semantic_category_score_std": std}
            for name, values in self._fidelity([receipt.summary for receipt in mine]):
                for head, value in zip(self._heads, values, strict=True):
                    found[head][name] = None if np.isnan(value) else float(value)
        means = {name: mean for receipt in mine for name, mean in receipt.summary.get("behaviour", {}).items()}
        places = {name: of_kind for sequences in self.sequences for name, of_kind in sequences.places.items()}
        windows = {layer: self._model.checkpoint.architecture.window_of(layer) for layer in self._layers}
        bases = {window: base_rates(places, window) for window in set(windows.values())}
        for head in self._heads:
            for name, mean_LN in means.items():
                found[head][name] = mean_LN[self._layers.index(head.layer)][head.index]
            found[head] |= {f"{name}_base": rate for name, rate in bases[windows[head.layer]].items()}
        return found

    def _fidelity(self, summaries: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, np.ndarray]]:
        """Names of columns on how well states predict real scores, each with a value a head."""

        def total(name: str, kind: str) -> np.ndarray:
            sums: np.ndarray = np.sum([of[name][kind] for of in summaries if name in of], axis=0)
            return sums

        for kind in STATES:
            yield f"fidelity_{kind}", correlation(total("fidelity", kind))
        yield "fidelity", correlation(total("fidelity", self._own.kind))
        for kind in STATES:
            yield f"row_fidelity_{kind}", row_figures(total("rows", kind))["correlation"]
        own, offset_only = (row_figures(total("rows", kind)) for kind in (self._own.kind, OFFSET_ONLY))
        yield "row_fidelity", own["correlation"]
        yield "fidelity_offset_only", offset_only["correlation"]
        yield "attention_distance", own["distance"]
        yield "attention_distance_offset_only", offset_only["distance"]
        yield "attention_distance_uniform", own["uniform_distance"]


def run_prompts(grant: Grant, shard: Shard, inputs: PromptInputs, passages: Passages) -> Produced:
    """Run the model on some category prompts, or on one kind of sequences; runs on a worker.

    Args:
        grant: what the worker may use.
        shard: one of `prompt_shards`.
        inputs: the model, and what is measured.
        passages: what it reads.
    """
    if isinstance(passages, Sequences):
        return _run_sequences(grant, inputs, passages)
    heads = inputs.heads
    assert inputs.states is not None, "prompts come with the states of their tokens"
    found = measure_prompts(inputs.weights, passages, inputs.states, heads, threads=grant.cpus, device=grant.device)
    numbers = np.arange(shard.rows.start, shard.rows.stop, dtype=np.int32)
    columns = [
        pa.array(np.repeat(numbers, len(heads))),
        pa.array(np.tile(np.array([head.layer for head in heads], np.int32), len(numbers))),
        pa.array(np.tile(np.array([head.index for head in heads], np.int32), len(numbers))),
        pa.array(found.scores_PC.reshape(-1)),
    ]
    table = pa.Table.from_arrays(columns, schema=schemas_heads.PROMPT_SCORES)
    sums = {"fidelity": found.sums, "rows": found.rows}
    summary = {name: {kind: of_C6.tolist() for kind, of_C6 in by_kind.items()} for name, by_kind in sums.items()}
    return Produced({"prompt_scores": table}, summary)


def _run_sequences(grant: Grant, inputs: PromptInputs, sequences: Sequences) -> Produced:
    """Measure one kind of sequences in every head of the layers."""
    means = measure_sequences(inputs.weights, sequences, _layers(inputs.heads), threads=grant.cpus, device=grant.device)
    return Produced(summary={"behaviour": {name: mean_LN.tolist() for name, mean_LN in means.items()}})


def _layers(heads: Sequence[Head]) -> list[int]:
    return sorted({head.layer for head in heads})
