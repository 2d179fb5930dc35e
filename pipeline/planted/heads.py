"""Attention heads of the planted checkpoint: the target, its decoys and random heads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qkatlas.pipeline.planted.codes import (
    BOS,
    CATEGORY,
    IDENTITY,
    POSITION,
    STREAM_NORM,
    TOKEN,
    Array,
    Codes,
    Subspaces,
    random_orthogonal,
)

SELF_SUPPRESSING = "self-suppressing semantic"
# Scores at the real scale Q . K / sqrt(H), nats.
MATE_SCORE = 15.0  # two words of a category in the target, and in the plain semantic head
SELF_SUPPRESSION = 1.25  # identity's pull in the target relative to MATE_SCORE: a word's score with itself is negative
BOS_SCORE = 9.0  # what a query without a partner gives BOS
PATTERN_SCORE = 18.0  # peak of the duplicate-token, previous-token, induction and BOS heads
SPREAD = 0.1  # planted eigenvalues differ by up to this share, so that each can be told from its neighbours


@dataclass(frozen=True, kw_only=True)
class HeadCircuit:
    """Query and key weights of one head on normalised states (LayerNorm without weight and bias)."""

    w_q: Array  # [D, H]
    w_k: Array  # [D, H]
    b_q: Array  # [H]
    b_k: Array  # [H]


@dataclass(frozen=True, kw_only=True)
class TargetCircuit:
    """The target head with its exact spectrum."""

    circuit: HeadCircuit
    eigenvalues: tuple[float, ...]  # H eigenvalues of sym(W'), descending
    skew_singular_values: tuple[float, ...]  # H singular values of skew(W'), descending


def _unit_amplitude(norm: float, d_model: int) -> float:
    """Length of a part of `norm` after normalisation of the residual stream."""
    return norm * float(np.sqrt(d_model)) / STREAM_NORM


def _spread(n: int, rng: np.random.Generator) -> Array:
    return np.asarray(rng.permutation(np.linspace(1.0 - SPREAD, 1.0 + SPREAD, n)))


def target_circuit(spaces: Subspaces, *, skew: float, d_head: int, rng: np.random.Generator) -> TargetCircuit:
    """The self-suppressing semantic head: positive eigenvalues on C, negative ones on I and B.

    W' = U (Lambda + A) U^T with U = [C I B] and A skew-symmetric, so sym(W') = U Lambda U^T has rank H, not 2H,
    whatever the skew part.

    Args:
        spaces: planted subspaces.
        skew: spectral norm of A relative to the largest eigenvalue by magnitude.
        d_head: H.
        rng: seeded generator.

    Returns:
        The circuit with its spectrum; b_q makes every query look at BOS with score BOS_SCORE.
    """
    basis = np.concatenate([spaces.category, spaces.identity, spaces.bos]).T  # [D, H]
    d_model = len(basis)
    scale = MATE_SCORE * np.sqrt(d_head)
    on_category = scale / _unit_amplitude(CATEGORY, d_model) ** 2 * _spread(len(spaces.category), rng)
    suppression = SELF_SUPPRESSION * scale / _unit_amplitude(IDENTITY, d_model) ** 2
    on_identity = -suppression * _spread(len(spaces.identity), rng)
    eigenvalues = np.concatenate([on_category, on_identity, [-0.5 * scale / _unit_amplitude(BOS, d_model) ** 2]])
    gauss = rng.standard_normal((d_head, d_head))
    skew_part = gauss - gauss.T
    skew_part *= skew * np.abs(eigenvalues).max() / np.linalg.norm(skew_part, 2)
    left, strengths, right = np.linalg.svd(np.diag(eigenvalues) + skew_part)
    rotation = random_orthogonal(d_head, rng)
    w_q = basis @ (left * np.sqrt(strengths)) @ rotation
    w_k = basis @ (right.T * np.sqrt(strengths)) @ rotation
    # b_q . K(u) = BOS_SCORE sqrt(H) times u's share of the BOS direction.
    b_q = (right[:, -1] / np.sqrt(strengths)) @ rotation * BOS_SCORE * np.sqrt(d_head) / _unit_amplitude(BOS, d_model)
    circuit = HeadCircuit(w_q=w_q, w_k=w_k, b_q=b_q, b_k=0.2 * rng.standard_normal(d_head))
    return TargetCircuit(
        circuit=circuit,
        eigenvalues=tuple(float(value) for value in np.sort(eigenvalues)[::-1]),
        skew_singular_values=tuple(float(value) for value in np.linalg.svd(skew_part, compute_uv=False)),
    )


def _structured(
    queries: Array, keys: Array, strengths: Array, *, b_q: Array | None, d_head: int, rng: np.random.Generator
) -> HeadCircuit:
    """A head with W'_Q W'_K^T = queries diag(strengths) keys^T, the remaining head dimensions weakly random.

    Args:
        queries: directions read by queries [n, D].
        keys: directions read by keys [n, D].
        strengths: [n] signed strength of each pair.
        b_q: query bias on the n structured dimensions, in units of what keys read.
        d_head: H, at least n.
        rng: seeded generator.

    Returns:
        The circuit; the random remainder keeps a head that ignores content from giving every token the same score.
    """
    n, d_model = queries.shape
    root = np.sqrt(np.abs(strengths))
    spare = d_head - n
    sigma = np.sqrt(0.4 / d_model) * (d_head / max(spare, 1)) ** 0.25  # remainder's scores: 0.4 nats
    w_q = np.concatenate([(queries.T * root), sigma * rng.standard_normal((d_model, spare))], axis=1)
    w_k = np.concatenate([(keys.T * root * np.sign(strengths)), sigma * rng.standard_normal((d_model, spare))], axis=1)
    bias = np.zeros(d_head)
    if b_q is not None:
        bias[:n] = b_q / (root * np.sign(strengths))
    rotation = random_orthogonal(d_head, rng)
    return HeadCircuit(
        w_q=w_q @ rotation, w_k=w_k @ rotation, b_q=bias @ rotation, b_k=0.2 * rng.standard_normal(d_head)
    )


def decoy_circuit(role: str, spaces: Subspaces, codes: Codes, *, d_head: int, rng: np.random.Generator) -> HeadCircuit:
    """Builds a decoy: a head that resembles the target in one respect only, or does something else entirely.

    Args:
        role: a key of the roles table.
        spaces: planted subspaces.
        codes: position frequencies.
        d_head: H.
        rng: seeded generator.

    Returns:
        The circuit.
    """
    d_model = spaces.token.shape[1]
    scale = float(np.sqrt(d_head))

    def per_unit(score: float, query_norm: float, key_norm: float) -> float:
        return score * scale / (_unit_amplitude(query_norm, d_model) * _unit_amplitude(key_norm, d_model))

    token_norm, n = TOKEN, len(spaces.token)
    if role == "semantic":
        strengths = per_unit(MATE_SCORE, CATEGORY, CATEGORY) * _spread(len(spaces.category), rng)
        directions = np.concatenate([spaces.category, spaces.bos])
        b_q = np.zeros(len(directions))
        b_q[-1] = BOS_SCORE * scale / _unit_amplitude(BOS, d_model)
        strengths = np.append(strengths, per_unit(0.5, BOS, BOS))
        return _structured(directions, directions, strengths, b_q=b_q, d_head=d_head, rng=rng)
    if role == "anti-self":
        strengths = -per_unit(MATE_SCORE, IDENTITY, IDENTITY) * _spread(len(spaces.identity), rng)
        return _structured(spaces.identity, spaces.identity, strengths, b_q=None, d_head=d_head, rng=rng)
    if role == "duplicate-token":
        strengths = per_unit(PATTERN_SCORE, token_norm, token_norm) * _spread(n, rng)
        return _structured(spaces.token, spaces.token, strengths, b_q=None, d_head=d_head, rng=rng)
    if role == "previous-token":
        # Rotating each pair of waves by one position makes the query at q equal the key at q - 1.
        half = len(codes.frequencies)
        cos, sin = np.cos(codes.frequencies)[:, None], np.sin(codes.frequencies)[:, None]
        wave_cos, wave_sin = spaces.position[:half], spaces.position[half:]
        queries = np.concatenate([cos * wave_cos + sin * wave_sin, cos * wave_sin - sin * wave_cos])
        strengths = np.full(n, per_unit(PATTERN_SCORE, POSITION, POSITION))
        return _structured(queries, spaces.position, strengths, b_q=None, d_head=d_head, rng=rng)
    if role == "induction":
        strengths = per_unit(PATTERN_SCORE, token_norm, token_norm) * _spread(n, rng)
        return _structured(spaces.token, spaces.previous, strengths, b_q=None, d_head=d_head, rng=rng)
    assert role == "BOS sink", role
    b_q = np.array([PATTERN_SCORE * scale / _unit_amplitude(BOS, d_model)])
    strengths = np.array([per_unit(0.5, BOS, BOS)])
    return _structured(spaces.bos, spaces.bos, strengths, b_q=b_q, d_head=d_head, rng=rng)


def place_roles(
    places: tuple[tuple[str, int, int], ...], *, target: tuple[int, int], n_head: int
) -> dict[tuple[int, int], str]:
    """Puts the target where it was asked for and moves a decoy in its way to the next free head of its layer.

    Args:
        places: (role, layer, head) of each decoy by default.
        target: (layer, head) of the target.
        n_head: heads a layer.

    Returns:
        (layer, head) -> role, of every head with a role.
    """
    roles = {target: SELF_SUPPRESSING}
    wanted = {(layer, head) for _, layer, head in places}
    for role, layer, head in places:
        if (layer, head) in roles:
            head = next(h for h in range(n_head) if (layer, h) not in roles and (layer, h) not in wanted)
        roles[layer, head] = role
    return roles
