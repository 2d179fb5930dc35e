"""What the model does on prompts, in every head: Semantic Category Scores, fidelity sums and behaviours.

Shapes: P prompts, T positions, N heads of a layer, C chosen heads, U distinct tokens, L layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from qkatlas.pipeline.models.forward import Forward, for_batches, prompt_batches
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.models.weights import ModelWeights
from qkatlas.pipeline.passes.behaviour import Sequences, behaviour_sums
from qkatlas.pipeline.passes.fidelity import LayerProjection, correlation_sums, row_sums, rows_of
from qkatlas.pipeline.passes.semantic import masked_attention, semantic_category_scores
from qkatlas.pipeline.text.prompts import CategoryPrompts

Float64Array = npt.NDArray[np.float64]

OFFSET_ONLY = "offset_only"
"""Stands for one state in place of all tokens', among kinds of states."""


@dataclass(frozen=True)
class PromptStates:
    """Token states of the tokens that stand in the prompts.

    Attributes:
        token_ids: the tokens, ascending.
        states: kind of states -> layer -> float32 [U, D].
        own: the kind that the run takes its scores from.
    """

    token_ids: Sequence[int]
    states: Mapping[str, Mapping[int, np.ndarray]]
    own: str

    def kinds(self) -> Mapping[str, Mapping[int, np.ndarray]]:
        """The states, and the mean of the run's own in place of every token's: what positions alone predict."""
        means = {
            layer: np.repeat(states_UD.mean(axis=0, dtype=np.float64)[None], len(states_UD), axis=0)
            for layer, states_UD in self.states[self.own].items()
        }
        return {**self.states, OFFSET_ONLY: {layer: mean_UD.astype(np.float32) for layer, mean_UD in means.items()}}


@dataclass(frozen=True)
class PromptMeasures:
    """What some prompts show of C heads.

    Attributes:
        scores_PC: float64 [P, C], the Semantic Category Scores.
        sums: kind of states -> float64 [C, 6], `qkatlas.pipeline.passes.fidelity.SUMS`.
        rows: kind of states, OFFSET_ONLY among them -> float64 [C, 6], `ROW_SUMS` of the same.
    """

    scores_PC: Float64Array
    sums: Mapping[str, Float64Array]
    rows: Mapping[str, Float64Array]


def measure_prompts(
    weights: ModelWeights,
    prompts: CategoryPrompts,
    states: PromptStates,
    heads: Sequence[Head],
    *,
    threads: int,
    device: str = "cpu",
) -> PromptMeasures:
    """Run category prompts through the model and measure some of its heads.

    Args:
        weights: the model.
        prompts: the prompts.
        states: token states of all layers of the heads.
        heads: which heads.
        threads: threads to use on CPUs; no result depends on it.
        device: `cpu` or `cuda`.

    Returns:
        What they show.

    Raises:
        ValueError: if a predicted score would leave the range of float32.
    """
    layers = sorted({head.layer for head in heads})
    projections = {
        (kind, layer): LayerProjection.of(weights, layer, by_layer[layer], threads=threads)
        for kind, by_layer in states.kinds().items()
        for layer in layers
    }
    OfLayers = dict[tuple[str, int], np.ndarray]

    def work(model: Forward, batch: slice) -> tuple[dict[int, np.ndarray], OfLayers, OfLayers]:
        here = prompts[batch]
        rows_PT = rows_of(states.token_ids, here.tokens_PT)
        semantic: dict[int, np.ndarray] = {}
        fidelity: OfLayers = {}
        within: OfLayers = {}

        def visit(layer: int, scores_PNTT: torch.Tensor) -> None:
            semantic[layer] = semantic_category_scores(scores_PNTT, here).cpu().numpy()
            real_PNTT, window = scores_PNTT.cpu(), weights.architecture.window_of(layer)
            for kind in (*states.states, OFFSET_ONLY):
                predicted_PNTT = projections[kind, layer].scores(rows_PT)
                fidelity[kind, layer] = correlation_sums(predicted_PNTT, real_PNTT, window)
                within[kind, layer] = row_sums(predicted_PNTT, real_PNTT, window)

        model.attention_scores(here.tokens_PT, layers, visit)
        return semantic, fidelity, within

    done = for_batches(weights, prompt_batches(len(prompts.tokens_PT)), work, threads=threads, device=device)
    scores_PC = np.concatenate(
        [np.stack([semantic[head.layer][:, head.index] for head in heads], axis=1) for semantic, _, _ in done]
    )

    def total(of_batches: Sequence[OfLayers], kind: str) -> Float64Array:
        return np.stack([np.sum([of[kind, head.layer][head.index] for of in of_batches], axis=0) for head in heads])

    return PromptMeasures(
        scores_PC,
        {kind: total([fidelity for _, fidelity, _ in done], kind) for kind in states.states},
        {kind: total([within for *_, within in done], kind) for kind in (*states.states, OFFSET_ONLY)},
    )


def measure_masked_attention(
    weights: ModelWeights, prompts: CategoryPrompts, *, threads: int, device: str = "cpu"
) -> Float64Array:
    """Run category prompts through the model and take every head's mean attention on expected keys.

    Args:
        weights: the model.
        prompts: the prompts.
        threads: threads to use on CPUs; no result depends on it.
        device: `cpu` or `cuda`.

    Returns:
        float64 [P, L, N], `qkatlas.pipeline.passes.semantic.masked_attention` of every prompt.
    """
    layers = range(weights.architecture.n_layers)

    def work(model: Forward, batch: slice) -> np.ndarray:
        here, found = prompts[batch], []

        def visit(layer: int, scores_PNTT: torch.Tensor) -> None:
            found.append(masked_attention(scores_PNTT, here).cpu().numpy())

        model.attention_scores(here.tokens_PT, layers, visit)
        return np.stack(found, axis=1)

    batches = prompt_batches(len(prompts.tokens_PT))
    return np.concatenate(for_batches(weights, batches, work, threads=threads, device=device))


def measure_sequences(
    weights: ModelWeights, sequences: Sequences, layers: Sequence[int], *, threads: int, device: str = "cpu"
) -> dict[str, Float64Array]:
    """Run behaviour sequences of one kind through the model and measure every head of some layers.

    Args:
        weights: the model.
        sequences: the sequences.
        layers: which layers.
        threads: threads to use on CPUs; no result depends on it.
        device: `cpu` or `cuda`.

    Returns:
        Name of a behaviour score -> float64 [L, N], its mean.
    """

    def work(model: Forward, batch: slice) -> dict[int, dict[str, np.ndarray]]:
        sums: dict[int, dict[str, np.ndarray]] = {}

        def visit(layer: int, scores_PNTT: torch.Tensor) -> None:
            sums[layer] = behaviour_sums(scores_PNTT, sequences.places, range(batch.start, batch.stop))

        model.attention_scores(sequences.tokens_PT[batch], layers, visit)
        return sums

    done = for_batches(weights, prompt_batches(len(sequences.tokens_PT)), work, threads=threads, device=device)
    return {
        name: np.stack([np.sum([sums[layer][name] for sums in done], axis=0) for layer in layers]) / len(places)
        for name, places in sequences.places.items()
    }
