"""Latents of a neuron: communities of its strongest tokens, linked by how alike their extended embeddings are.

Two tokens are linked by the cosine of their extended embeddings less the mean one, where it is above a bound. Leiden
maximises the constant Potts model: within a community tokens are more alike than the resolution on average, whatever
the number of tokens, so that tokens that are alike in nothing stay alone.

Shapes: S strongest tokens, D model, K latents.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qkatlas.pipeline.graph.communities import find_communities
from qkatlas.pipeline.graph.neighbours import Graph
from qkatlas.pipeline.text import streams

Float64Array = npt.NDArray[np.float64]
Int32Array = npt.NDArray[np.int32]

MEMBERS = 8
"""Tokens that a community needs to be a latent."""

AGAIN, SHARE_AGAIN = 2, 0.75
"""How often latents are found again, and from which share of the tokens."""

NO_LINK = 1 / 3
"""Cosines below this share of the resolution are no links: they could add to no community, and cost time."""


@dataclass(frozen=True, kw_only=True)
class Latents:
    """Latents of some tokens, the largest first.

    Attributes:
        latent_S: int32 [S], from 0; -1 where a token has none.
        stability_K: float64 [K], how far each comes back: the mean, over the times that latents were found again from a
            part of the tokens, of the largest Jaccard similarity with one of those, among the tokens of that part.
    """

    latent_S: Int32Array
    stability_K: Float64Array


def find_latents(
    extended_SD: Float64Array, *, resolution: float, seed: int, layer: int, neuron: int, again: int = AGAIN
) -> Latents:
    """Divide tokens into latents.

    Args:
        extended_SD: float64 [S, D], extended embeddings of the tokens, less the mean one.
        resolution: mean cosine that holds a latent together.
        seed: of everything drawn.
        layer: the neuron's layer.
        neuron: the neuron.
        again: how often latents are found again; 0 = never, and their stability is NaN.
    """
    length_S1 = np.linalg.norm(extended_SD, axis=1, keepdims=True)
    unit_SD = extended_SD / np.where(length_S1 > 0, length_S1, 1.0)
    cosine_SS = unit_SD @ unit_SD.T
    latent_S = _communities(cosine_SS, resolution=resolution, seed=seed, restart=0)
    overlap_KA = np.full((latent_S.max(initial=-1) + 1, again), np.nan)
    for number in range(again):
        rng = streams.LATENTS.generator(seed, layer, neuron, part=number)
        part = np.sort(rng.choice(len(cosine_SS), max(1, int(SHARE_AGAIN * len(cosine_SS))), replace=False))
        other_S = _communities(cosine_SS[np.ix_(part, part)], resolution=resolution, seed=seed, restart=1 + number)
        for latent in range(len(overlap_KA)):
            overlap_KA[latent, number] = _best_overlap(latent_S[part] == latent, other_S)
    return Latents(latent_S=latent_S, stability_K=overlap_KA.mean(axis=1) if again else overlap_KA.sum(axis=1) * np.nan)


def _communities(cosine_SS: Float64Array, *, resolution: float, seed: int, restart: int) -> Int32Array:
    """Communities of enough tokens, the largest first, int32 [S]; -1 elsewhere."""
    count = len(cosine_SS)
    source_E, target_E = np.nonzero(np.triu(cosine_SS > NO_LINK * resolution, 1))
    if not len(source_E):
        return np.full(count, -1, np.int32)
    graph = Graph(
        token_ids_N=np.arange(count, dtype=np.int32),
        source_E=source_E.astype(np.int32),
        target_E=target_E.astype(np.int32),
        weight_E=cosine_SS[source_E, target_E].astype(np.float32),
        directed=False,
        n_short=0,
    )
    found_S, _ = find_communities(graph, quality="cpm", resolution=resolution, seed=seed, restart=restart)
    return np.where(np.bincount(found_S)[found_S] >= MEMBERS, found_S, -1).astype(np.int32)


def _best_overlap(own_S: npt.NDArray[np.bool_], other_S: Int32Array) -> float:
    """Largest Jaccard similarity of some tokens with one of other latents; 0 where there is none."""
    found = [
        float((own_S & (other_S == latent)).sum() / (own_S | (other_S == latent)).sum())
        for latent in range(other_S.max(initial=-1) + 1)
    ]
    return max(found, default=0.0)
