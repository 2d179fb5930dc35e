"""The part of a head scan that runs the model: Semantic Category Scores, fidelity and behaviours on prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from qkatlas.cluster.executor import Executor, Grant
from qkatlas.jobs.head_scan.shards import CATEGORY_PROMPTS, SEQUENCES, prompt_shards, shard_files
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.prompts import DrawnPrompts
from qkatlas.jobs.loop.clock import Clock
from qkatlas.outputs.places.folder import Folder
from qkatlas.outputs.runs.part import Part, write_part
from qkatlas.outputs.runs.reader import read_parts
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.shard import Shard
from qkatlas.outputs.schemas import head_scan as schemas_heads
from qkatlas.pipeline.circuit.kinds import STATES
from qkatlas.pipeline.circuit.states import TokenStates
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.models.weights import ModelWeights
from qkatlas.pipeline.passes.behaviour import Sequences, block_length, draw_sequences
from qkatlas.pipeline.passes.fidelity import correlation
from qkatlas.pipeline.passes.prompt_measures import PromptStates, measure_prompts, measure_sequences
from qkatlas.pipeline.passes.semantic import mean_and_std
from qkatlas.pipeline.text.prompts import CategoryPrompts


class HeadPrompts:
    """What a head scan runs the model on.

    Args:
        model: the model.
        heads: the heads that are scanned.
        drawn: the category prompts.
        seed: of the behaviour sequences.
    """

    def __init__(self, model: Model, heads: Sequence[Head], drawn: DrawnPrompts, *, seed: int) -> None:
        self._model = model
        self._heads = list(heads)
        self._layers = sorted({head.layer for head in heads})
        self._prompts = drawn.prompts
        architecture, ordinary = model.checkpoint.architecture, model.ordinary_tokens()
        block = block_length(architecture.n_ctx, len(ordinary))
        bos = architecture.require_bos()
        self.sequences = draw_sequences(ordinary, bos=bos, block=block, seed=seed) if block else []

    def shards(self) -> list[Shard]:
        """Fixed ranges of the prompts, and one shard for each kind of sequence."""
        return prompt_shards(*self.counts())

    def counts(self) -> tuple[int, int]:
        """How many prompts there are, and how many kinds of sequences."""
        return len(self._prompts.tokens_PT) if self._prompts else 0, len(self.sequences)

    def tasks(
        self, stage: Sequence[Shard], run: Run, executor: Executor, threads: int, clock: Clock
    ) -> Iterator[tuple[Shard, tuple[Any, ...]]]:
        """The shards with what a worker needs for them; the weights are shared once."""
        folder = run.folder
        weights = executor.put(self._model.weights())
        key = self._model.identity["weights_sha256"]
        states, digest = None, key
        if any(shard.group == CATEGORY_PROMPTS for shard in stage):
            prompt_states = self._prompt_states(threads)
            digest = _digest(key, prompt_states)
            states = executor.put(prompt_states)
        clock.lap("token states")
        for shard in stage:
            if shard.group == SEQUENCES:
                yield shard, (key, weights, self.sequences[shard.bounds["kind"]], self._layers)
            else:
                assert self._prompts is not None
                chosen = self._prompts[shard.bounds["start"] : shard.bounds["stop"]]
                yield shard, (folder, digest, weights, states, chosen, self._heads)

    def _prompt_states(self, threads: int) -> PromptStates:
        """All kinds of states of the prompts' tokens, for every layer that is scanned."""
        assert self._prompts is not None
        token_ids = np.unique(self._prompts.tokens_PT).tolist()
        last = self._layers[-1]
        means_LD = self._model.attention_means(last, threads=threads) if last else None
        found: dict[str, dict[int, np.ndarray]] = {}
        for kind in STATES:
            states = TokenStates(
                self._model.checkpoint, kind, token_ids=token_ids, attention_means_LD=means_LD, threads=threads
            )
            found[kind] = {layer: states.advance_to(layer) for layer in self._layers}
        return PromptStates(token_ids, found)

    def columns(self, run: Run) -> dict[Head, dict[str, float | None]]:
        """The columns of every head that come from prompts; None where the model or its words allow none."""
        receipts = run.receipts()
        mine = [receipts[shard.name] for shard in self.shards()]
        found: dict[Head, dict[str, float | None]] = {head: {} for head in self._heads}
        if self._prompts:
            table = read_parts(run, [part for receipt in mine for part in receipt.parts])
            scores_PN = table["semantic_category_score"].to_numpy().reshape(-1, len(self._heads))
            for head, scores_P in zip(self._heads, scores_PN.T, strict=True):
                mean, std = mean_and_std(scores_P)
                found[head] |= {"semantic_category_score_mean": mean, "semantic_category_score_std": std}
            for kind in STATES:
                sums = [
                    np.array(receipt.summary["fidelity"][kind]) for receipt in mine if "fidelity" in receipt.summary
                ]
                for head, value in zip(self._heads, correlation(np.sum(sums, axis=0)), strict=True):
                    found[head][f"fidelity_{kind}"] = None if np.isnan(value) else float(value)
        means = {name: mean for receipt in mine for name, mean in receipt.summary.get("behaviour", {}).items()}
        for head in self._heads:
            for name, mean_LN in means.items():
                found[head][name] = mean_LN[self._layers.index(head.layer)][head.index]
        return found


def run_prompts(
    grant: Grant,
    shard: Shard,
    folder: Folder,
    digest: str,
    weights: ModelWeights,
    states: PromptStates,
    prompts: CategoryPrompts,
    heads: Sequence[Head],
) -> tuple[str, tuple[Part, ...], dict[str, Any]]:
    """Score some category prompts in every head; runs on a worker."""
    scores_PC, sums = measure_prompts(weights, prompts, states, heads, threads=grant.cpus, device=grant.device)
    numbers = np.arange(shard.bounds["start"], shard.bounds["stop"], dtype=np.int32)
    columns = [
        pa.array(np.repeat(numbers, len(heads))),
        pa.array(np.tile(np.array([head.layer for head in heads], np.int32), len(numbers))),
        pa.array(np.tile(np.array([head.index for head in heads], np.int32), len(numbers))),
        pa.array(scores_PC.reshape(-1)),
    ]
    table = pa.Table.from_arrays(columns, schema=schemas_heads.PROMPT_SCORES)
    (file,) = shard_files(shard)
    part = write_part(folder, file, table)
    return f"{digest} {grant.device}", (part,), {"fidelity": {kind: sums_C6.tolist() for kind, sums_C6 in sums.items()}}


def run_sequences(
    grant: Grant, shard: Shard, digest: str, weights: ModelWeights, sequences: Sequences, layers: Sequence[int]
) -> tuple[str, tuple[Part, ...], dict[str, Any]]:
    """Measure one kind of sequences in every head of some layers; runs on a worker."""
    means = measure_sequences(weights, sequences, layers, threads=grant.cpus, device=grant.device)
    return f"{digest} {grant.device}", (), {"behaviour": {name: mean_LN.tolist() for name, mean_LN in means.items()}}


def _digest(weights: str, states: PromptStates) -> str:
    digest = hashlib.sha256(weights.encode())
    for by_layer in states.states.values():
        for states_UD in by_layer.values():
            digest.update(states_UD.data)
    return digest.hexdigest()
