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
from qkatlas.pipeline.passes.fidelity import LayerProjection, correlation_sums, rows_of
from qkatlas.pipeline.passes.semantic import masked_attention, semantic_category_scores
from qkatlas.pipeline.text.prompts import CategoryPrompts

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PromptStates:
    """Token states of the tokens that stand in the prompts.

    Attributes:
        token_ids: the tokens, ascending.
        states: kind of states -> layer -> float32 [U, D].
    """

    token_ids: Sequence[int]
    states: Mapping[str, Mapping[int, np.ndarray]]


def measure_prompts(
    weights: ModelWeights,
    prompts: CategoryPrompts,
    states: PromptStates,
    heads: Sequence[Head],
    *,
    threads: int,
    device: str = "cpu",
) -> tuple[Float64Array, dict[str, Float64Array]]:
    """Run category prompts through the model and measure some of its heads.

    Args:
        weights: the model.
        prompts: the prompts.
        states: token states of all layers of the heads.
        heads: which heads.
        threads: threads to use on CPUs; no result depends on it.
        device: `cpu` or `cuda`.

    Returns:
        float64 [P, C], the Semantic Category Scores; and for each kind of states float64 [C, 6], the sums that their
        fidelity is made of (`qkatlas.pipeline.passes.fidelity.SUMS`).

    Raises:
        ValueError: if a predicted score would leave the range of float32.
    """
    layers = sorted({head.layer for head in heads})
    projections = {
        (kind, layer): LayerProjection.of(weights, layer, by_layer[layer], threads=threads)
        for kind, by_layer in states.states.items()
        for layer in layers
    }

    def work(model: Forward, batch: slice) -> tuple[dict[int, np.ndarray], dict[tuple[str, int], np.ndarray]]:
        here = prompts[batch]
        rows_PT = rows_of(states.token_ids, here.tokens_PT)
        semantic: dict[int, np.ndarray] = {}
        fidelity: dict[tuple[str, int], np.ndarray] = {}

        def visit(layer: int, scores_PNTT: torch.Tensor) -> None:
            semantic[layer] = semantic_category_scores(scores_PNTT, here).cpu().numpy()
            for kind in states.states:
                fidelity[kind, layer] = correlation_sums(projections[kind, layer].scores(rows_PT), scores_PNTT.cpu())

        model.attention_scores(here.tokens_PT, layers, visit)
        return semantic, fidelity

    done = for_batches(weights, prompt_batches(len(prompts.tokens_PT)), work, threads=threads, device=device)
    scores_PC = np.concatenate(
        [np.stack([semantic[head.layer][:, head.index] for head in heads], axis=1) for semantic, _ in done]
    )
    sums = {
        kind: np.stack([np.sum([of[kind, head.layer][head.index] for _, of in done], axis=0) for head in heads])
        for kind in states.states
    }
    return scores_PC, sums


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
