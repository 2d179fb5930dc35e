"""What a reproduction computes on workers because no other job does: small things, one shard each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qkatlas.cluster.executor import Grant
from qkatlas.jobs.loop.step import Produced
from qkatlas.jobs.reproduce.measures import SpectrumFigures
from qkatlas.outputs.runs.shard import Shard
from qkatlas.pipeline.circuit.projection import HeadInputs
from qkatlas.pipeline.circuit.similarity import ScoreRange, curve, pair_sums
from qkatlas.pipeline.circuit.spectrum import ZERO_SHARE, compare_with_null, head_spectrum
from qkatlas.pipeline.graph.communities import find_communities
from qkatlas.pipeline.graph.neighbours import neighbour_graph
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.models.weights import ModelWeights
from qkatlas.pipeline.passes.prompt_measures import measure_masked_attention
from qkatlas.pipeline.scoring.engine import score_rows
from qkatlas.pipeline.scoring.rows import PreparedKeys
from qkatlas.pipeline.text.prompts import CategoryPrompts

RESTARTS = 10
"""Times that Leiden is run; the best is kept."""

EDGES_PER_TOKEN = 4
"""Best keys that a token is linked to, as in the published map."""

COSINE_BINS = 200
"""Of the similarity curves: bins of 0.01 from -1 to 1."""


@dataclass(frozen=True)
class SharedModel:
    """A model that prompts are run through."""

    weights: ModelWeights

    def identity(self) -> str:
        """Hash of the weights."""
        return self.weights.key


@dataclass(frozen=True)
class HeadFactors:
    """A head's folded W'_Q and W'_K, float64 [D, H] each, by variant."""

    head: Head
    variants: Mapping[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class FrequentTokens:
    """States of frequent tokens divided by their length, and what a head makes of them."""

    unit_ND: np.ndarray
    inputs: HeadInputs

    def first(self, count: int) -> FrequentTokens:
        """The most frequent of them."""
        inputs = self.inputs
        return FrequentTokens(
            self.unit_ND[:count], HeadInputs(inputs.queries_VH[:count], inputs.keys_VH[:count], inputs.scale)
        )


@dataclass(frozen=True, kw_only=True)
class Linking:
    """How tokens are linked to their best keys.

    Attributes:
        swapped: whether rows of scores are taken for keys, as the authors' code has it.
        seed: of Leiden.
    """

    swapped: bool
    seed: int


def run_masked(grant: Grant, shard: Shard, model: SharedModel, prompts: CategoryPrompts) -> Produced:
    """The notebook's own score of every head: mean over the prompts that have expected pairs."""
    attention_PLN = measure_masked_attention(model.weights, prompts, threads=grant.cpus, device=grant.device)
    marked_P = ~np.isnan(attention_PLN[:, 0, 0])
    mean_LN = attention_PLN[marked_P].mean(axis=0) if marked_P.any() else None
    return Produced(summary={"masked": None if mean_LN is None else mean_LN.tolist()})


def run_spectrum(grant: Grant, shard: Shard, factors: HeadFactors, seed: int) -> Produced:
    """Singular values and counts of negative eigenvalues of a head, for each variant of its folded weights."""
    found = {}
    for variant, (w_q_DH, w_k_DH) in factors.variants.items():
        own = head_spectrum(w_q_DH, w_k_DH)
        # Only the null's count is used, which depends on no second moment of states.
        null = compare_with_null(own, np.eye(len(w_q_DH)), factors.head, seed=seed).n_negative_top_H
        eigenvalues = own.eigenvalues_2H
        nonzero = np.abs(eigenvalues) > ZERO_SHARE * np.abs(eigenvalues).max()
        found[variant] = vars(
            SpectrumFigures(
                max_sym=float(own.sym_singular_values_2H[0]),
                max_skew=float(own.skew_singular_values_2H[0]),
                negative=own.n_negative_top_H,
                all_negative=int((eigenvalues[nonzero] < 0).sum()),
                nonzero=int(nonzero.sum()),
                null_mean=null.mean,
                null_std=null.std,
            )
        )
    return Produced(summary={"spectrum": found})


def run_similarity(grant: Grant, shard: Shard, tokens: FrequentTokens, each: None) -> Produced:
    """The similarity curve with the key's self score subtracted, as the authors' code has it.

    S[t, u] - S[u, u] of the pair (t, u) is what the pair (u, t) has where queries and keys change places, and its
    cosine is the same.
    """
    swapped = _swap(tokens.inputs)
    scores, unit_ND = ScoreRange.of(swapped), tokens.unit_ND
    found = curve(pair_sums(unit_ND, swapped, slice(0, len(unit_ND)), scores, COSINE_BINS, threads=grant.cpus), scores)
    columns = {
        "cosine_low": found.edges[:-1].tolist(),
        "cosine_high": found.edges[1:].tolist(),
        "count": found.counts_C.tolist(),
        "self_pairs": found.self_pairs_C.tolist(),
        "mean": [None if np.isnan(mean) else float(mean) for mean in found.mean_C],
    }
    return Produced(summary={"similarity": columns})


def run_clusters(grant: Grant, shard: Shard, inputs: HeadInputs, linking: Linking) -> Produced:
    """Communities of some tokens, each linked to its best keys among them."""
    inputs = _swap(inputs) if linking.swapped else inputs
    count = len(inputs.keys_VH)
    ids_N = np.arange(count, dtype=np.int32)
    k = min(EDGES_PER_TOKEN + 1, count)  # one of them may be the token itself
    keys = PreparedKeys(inputs.keys_VH, device=grant.device)
    rows = score_rows(inputs.queries_VH, keys, row_ids_R=ids_N, k=k, scale=inputs.scale, threads=grant.cpus)
    graph = neighbour_graph(rows.key_ids_RK, ids_N, neighbours=EDGES_PER_TOKEN, symmetrise="union")
    counts, qualities = [], []
    for restart in range(RESTARTS):
        community_N, quality = find_communities(
            graph, quality="modularity", resolution=None, seed=linking.seed, restart=restart
        )
        counts.append(int((np.bincount(community_N) > 1).sum()))
        qualities.append(quality)
    return Produced(summary={"clusters": {"counts": counts, "best": int(np.argmax(qualities))}})


def _swap(inputs: HeadInputs) -> HeadInputs:
    """The same scores with rows as keys."""
    return HeadInputs(inputs.keys_VH, inputs.queries_VH, inputs.scale)
