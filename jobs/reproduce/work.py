"""What a reproduction computes on workers because no other job does: small things, one shard each."""

from __future__ import annotations

from typing import Any

import numpy as np

from qkatlas.cluster.executor import Grant
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

Done = tuple[str, tuple[()], dict[str, Any]]
"""Digest of the inputs, no parts, and the receipt's summary."""


def run_masked(grant: Grant, shard: Shard, digest: str, weights: ModelWeights, prompts: CategoryPrompts) -> Done:
    """The notebook's own score of every head: mean over the prompts that have expected pairs."""
    attention_PLN = measure_masked_attention(weights, prompts, threads=grant.cpus, device=grant.device)
    marked_P = ~np.isnan(attention_PLN[:, 0, 0])
    mean_LN = attention_PLN[marked_P].mean(axis=0) if marked_P.any() else None
    return f"{digest} {grant.device}", (), {"masked": None if mean_LN is None else mean_LN.tolist()}


def run_spectrum(
    grant: Grant, shard: Shard, digest: str, factors: dict[str, tuple[np.ndarray, np.ndarray]], head: Head, seed: int
) -> Done:
    """Singular values and counts of negative eigenvalues of a head, for each variant of its folded weights."""
    found = {}
    for variant, (w_q_DH, w_k_DH) in factors.items():
        own = head_spectrum(w_q_DH, w_k_DH)
        # Only the null's count is used, which depends on no second moment of states.
        null = compare_with_null(own, np.eye(len(w_q_DH)), head, seed=seed).n_negative_top_H
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
    return digest, (), {"spectrum": found}


def run_similarity(grant: Grant, shard: Shard, digest: str, unit_ND: np.ndarray, inputs: HeadInputs) -> Done:
    """The similarity curve with the key's self score subtracted, as the authors' code has it.

    S[t, u] - S[u, u] of the pair (t, u) is what the pair (u, t) has where queries and keys change places, and its
    cosine is the same.
    """
    swapped = swap(inputs)
    scores = ScoreRange.of(swapped)
    found = curve(pair_sums(unit_ND, swapped, slice(0, len(unit_ND)), scores, COSINE_BINS, threads=grant.cpus), scores)
    return digest, (), {
        "similarity": {
            "cosine_low": found.edges[:-1].tolist(),
            "cosine_high": found.edges[1:].tolist(),
            "count": found.counts_C.tolist(),
            "self_pairs": found.self_pairs_C.tolist(),
            "mean": [None if np.isnan(mean) else float(mean) for mean in found.mean_C],
        }
    }  # fmt: skip


def run_clusters(grant: Grant, shard: Shard, digest: str, inputs: HeadInputs, seed: int) -> Done:
    """Communities of some tokens, each linked to its best keys among them."""
    count = len(inputs.keys_VH)
    ids_N = np.arange(count, dtype=np.int32)
    k = min(EDGES_PER_TOKEN + 1, count)  # one of them may be the token itself
    keys = PreparedKeys(inputs.keys_VH, device=grant.device)
    rows = score_rows(inputs.queries_VH, keys, row_ids_R=ids_N, k=k, scale=inputs.scale, threads=grant.cpus)
    graph = neighbour_graph(rows.key_ids_RK, ids_N, neighbours=EDGES_PER_TOKEN, symmetrise="union")
    counts, qualities = [], []
    for restart in range(RESTARTS):
        community_N, quality = find_communities(
            graph, quality="modularity", resolution=None, seed=seed, restart=restart
        )
        counts.append(int((np.bincount(community_N) > 1).sum()))
        qualities.append(quality)
    return digest, (), {"clusters": {"counts": counts, "best": int(np.argmax(qualities))}}


def swap(inputs: HeadInputs) -> HeadInputs:
    """The same scores with rows as keys."""
    return HeadInputs(inputs.keys_VH, inputs.queries_VH, inputs.scale)
