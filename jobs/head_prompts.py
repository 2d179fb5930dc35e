"""The part of a head scan that runs the model: Semantic Category Scores, fidelity and behaviours on prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.executor import Executor, Grant
from jobs.clock import Clock
from jobs.model import Model
from outputs import schemas_heads
from outputs.part import Part, write_part
from outputs.reader import read_parts
from outputs.run import Run
from outputs.shard import Shard
from pipeline.behaviour import Sequences, block_length, draw_sequences
from pipeline.categories import Categories, read_categories
from pipeline.fidelity import correlation
from pipeline.head import Head
from pipeline.prompt_measures import PromptStates, measure_prompts, measure_sequences
from pipeline.prompts import CategoryPrompts
from pipeline.semantic import mean_and_std
from pipeline.states import STATES, TokenStates
from pipeline.weights import ModelWeights

PROMPTS_PER_SHARD = 32
LONGEST_DEFAULT = 64
"""Words of a prompt, unless asked for otherwise or the model reads fewer."""

CATEGORY_PROMPTS, SEQUENCES = "prompts", "sequences"
"""Groups of shards."""


class HeadPrompts:
    """What a head scan runs the model on.

    Args:
        model: the model.
        heads: the heads that are scanned.
        words: the words of each category; None = the project's list.
        prompts: category prompts.
        length: words in one; None = 64, or as many as the model reads.
        seed: of all prompts.

    Raises:
        ValueError: if the model has no BOS, or reads fewer words than asked for.
    """

    def __init__(
        self,
        model: Model,
        heads: Sequence[Head],
        *,
        words: Sequence[Sequence[str]] | None,
        prompts: int,
        length: int | None,
        seed: int,
    ) -> None:
        architecture = model.checkpoint.architecture
        bos = architecture.require_bos()
        room = architecture.n_ctx - 1
        if length is not None and length > room:
            raise ValueError(f"--length {length} is more than the model reads after BOS; choose at most {room}")
        self.length = length or min(LONGEST_DEFAULT, room)
        self.categories = Categories.fit(words or [words for _, words in read_categories()], model.vocabulary)
        self._model = model
        self._heads = list(heads)
        self._layers = sorted({head.layer for head in heads})
        self.prompts: CategoryPrompts | None = None
        if self.categories.token_ids and self.length:
            self.prompts = CategoryPrompts.draw(self.categories, bos=bos, count=prompts, length=self.length, seed=seed)
        ordinary = model.ordinary_tokens()
        block = block_length(architecture.n_ctx, len(ordinary))
        self.sequences = draw_sequences(ordinary, bos=bos, block=block, seed=seed) if block else []

    def identity(self) -> dict[str, Any]:
        """What of the prompts changes results, beside their number and seed."""
        tokens = hashlib.sha256(repr(self.categories.token_ids).encode()).hexdigest()
        return {"length": self.length, "category_tokens_sha256": tokens}

    def shards(self) -> list[Shard]:
        """Fixed ranges of the prompts, and one shard for each kind of sequence."""
        count = len(self.prompts.tokens_PT) if self.prompts else 0
        ranges = [(start, min(start + PROMPTS_PER_SHARD, count)) for start in range(0, count, PROMPTS_PER_SHARD)]
        return [
            *(
                Shard(f"prompts-{start:06d}", CATEGORY_PROMPTS, {"start": start, "stop": stop})
                for start, stop in ranges
            ),
            *(Shard(f"sequences-{kind}", SEQUENCES, {"kind": kind}) for kind in range(len(self.sequences))),
        ]

    def tasks(
        self, stage: Sequence[Shard], run: Run, executor: Executor, threads: int, clock: Clock
    ) -> Iterator[tuple[Shard, tuple[Any, ...]]]:
        """The shards with what a worker needs for them; the weights are shared once."""
        folder = run.folder.resolve()
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
                yield (
                    shard,
                    (
                        self._model.identity["weights_sha256"],
                        weights,
                        self.sequences[shard.bounds["kind"]],
                        self._layers,
                    ),
                )
            else:
                assert self.prompts is not None
                chosen = self.prompts[shard.bounds["start"] : shard.bounds["stop"]]
                yield shard, (folder, digest, weights, states, chosen, self._heads)

    def _prompt_states(self, threads: int) -> PromptStates:
        """All kinds of states of the prompts' tokens, for every layer that is scanned."""
        assert self.prompts is not None
        token_ids = np.unique(self.prompts.tokens_PT).tolist()
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
        if self.prompts:
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
    folder: Path,
    digest: str,
    weights: ModelWeights,
    states: PromptStates,
    prompts: CategoryPrompts,
    heads: Sequence[Head],
) -> tuple[str, tuple[Part, ...], dict[str, Any]]:
    """Score some category prompts in every head; runs on a worker."""
    device = "cuda" if grant.gpus else "cpu"
    scores_PC, sums = measure_prompts(weights, prompts, states, heads, threads=grant.cpus, device=device)
    numbers = np.arange(shard.bounds["start"], shard.bounds["stop"], dtype=np.int32)
    columns = [
        pa.array(np.repeat(numbers, len(heads))),
        pa.array(np.tile(np.array([head.layer for head in heads], np.int32), len(numbers))),
        pa.array(np.tile(np.array([head.index for head in heads], np.int32), len(numbers))),
        pa.array(scores_PC.reshape(-1)),
    ]
    table = pa.Table.from_arrays(columns, schema=schemas_heads.PROMPTS)
    part = write_part(folder, f"prompts/part-{shard.bounds['start'] // PROMPTS_PER_SHARD:05d}.parquet", table)
    return digest, (part,), {"fidelity": {kind: sums_C6.tolist() for kind, sums_C6 in sums.items()}}


def run_sequences(
    grant: Grant, shard: Shard, digest: str, weights: ModelWeights, sequences: Sequences, layers: Sequence[int]
) -> tuple[str, tuple[Part, ...], dict[str, Any]]:
    """Measure one kind of sequences in every head of some layers; runs on a worker."""
    device = "cuda" if grant.gpus else "cpu"
    means = measure_sequences(weights, sequences, layers, threads=grant.cpus, device=device)
    return digest, (), {"behaviour": {name: mean_LN.tolist() for name, mean_LN in means.items()}}


def _digest(weights: str, states: PromptStates) -> str:
    digest = hashlib.sha256(weights.encode())
    for by_layer in states.states.values():
        for states_UD in by_layer.values():
            digest.update(states_UD.data)
    return digest.hexdigest()
