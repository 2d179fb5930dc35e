"""Directions and token codes of the planted checkpoint: who writes where in the residual stream."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkatlas.pipeline.planted.vocabulary import PlantedVocabulary

Array = NDArray[np.float64]

# Amplitudes (norms) of a category word's parts in the residual stream; every token ends with the same total norm.
CATEGORY_SEED = 0.8  # C0: the direction in W_E that tells MLP_0 the category
CATEGORY = 1.0  # C: the code that MLP_0 writes
IDENTITY = 0.9  # I: the word
TOKEN = 0.6  # J: the token
FILLER = 0.7
BOS = 1.2
POSITION = 0.4
EMBEDDING_NORM = float(np.sqrt(CATEGORY_SEED**2 + IDENTITY**2 + TOKEN**2 + FILLER**2))
STREAM_NORM = float(np.sqrt(EMBEDDING_NORM**2 + CATEGORY**2))
BACKGROUND_GAIN = (0.35, 0.50)  # range of a background token's leaning to a category, relative to a category word's
BACKGROUND_IDENTITY = 0.5  # norm of a background token's identity code, relative to a category word's
SHARED_IDENTITY = 0.6  # cosine between identity codes of words that use the same codebook entry
MLP_THRESHOLD = 0.1  # a leaning below this share of a category word's does not fire its neuron
MLP_GAIN = 12.0  # pre-activation per unit of relative leaning


@dataclass(frozen=True, kw_only=True)
class Subspaces:
    """Orthonormal rows, all orthogonal to the ones vector, so that LayerNorm's centring leaves them alone."""

    category_seed: Array  # C0 [n_categories, D]
    category: Array  # C [n_category_dims, D]
    identity: Array  # I [H - 1 - n_category_dims, D]
    bos: Array  # B [1, D]
    position: Array  # P [n_structured, D]
    token: Array  # J [n_structured, D]
    previous: Array  # Jp [n_structured, D]: where the previous-token head leaves the code of the token before
    filler: Array  # the rest


@dataclass(frozen=True, kw_only=True)
class Codes:
    """Codes that embeddings and heads share."""

    category: Array  # [n_categories, n_category_dims] unit codes
    embedding: NDArray[np.float32]  # W_E [V, D]
    position: NDArray[np.float32]  # W_pos [n_ctx, D]
    frequencies: Array  # [n_structured / 2] radians per position


def random_orthogonal(n: int, rng: np.random.Generator) -> Array:
    """A seeded random orthogonal matrix [n, n]."""
    q, r = np.linalg.qr(rng.standard_normal((n, n)))
    return np.asarray(q * np.sign(np.diag(r)))


def split_space(
    *, d_model: int, d_head: int, n_categories: int, n_category_dims: int, n_structured: int, rng: np.random.Generator
) -> Subspaces:
    """Cuts the complement of the ones vector into the planted subspaces.

    Args:
        d_model: D.
        d_head: H.
        n_categories: one direction of C0 each.
        n_category_dims: dimensions of C; I takes the rest of the target's H but one for B.
        n_structured: dimensions of P, J and Jp each.
        rng: seeded generator.

    Returns:
        Subspaces whose rows together are an orthonormal basis of the D - 1 centred directions.
    """
    gauss = rng.standard_normal((d_model, d_model))
    gauss[:, 0] = 1.0  # QR keeps the ones vector as the first column
    rows = np.linalg.qr(gauss)[0].T[1:]
    sizes = [n_categories, n_category_dims, d_head - 1 - n_category_dims, 1, n_structured, n_structured, n_structured]
    assert sum(sizes) < d_model - 1, "some filler must remain"
    parts = np.split(rows, np.cumsum(sizes))
    return Subspaces(
        category_seed=parts[0], category=parts[1], identity=parts[2], bos=parts[3], position=parts[4],
        token=parts[5], previous=parts[6], filler=parts[7],
    )  # fmt: skip


def spread_codes(n: int, dim: int, *, one_sided: bool, rng: np.random.Generator) -> Array:
    """Unit vectors that overlap little.

    Args:
        n: how many.
        dim: their dimension.
        one_sided: only positive cosines count as overlap (opposite vectors are welcome).
        rng: seeded generator.

    Returns:
        [n, dim] unit rows: orthonormal where n <= dim and overlap counts both ways, else spread by gradient descent
        on a soft maximum of the cosines.
    """
    if n <= dim and not one_sided:
        return random_orthogonal(dim, rng)[:n]
    codes = rng.standard_normal((n, dim))
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    for sharpness in np.geomspace(2.0, 60.0, 300):
        cosines = codes @ codes.T
        np.fill_diagonal(cosines, -1.0 if one_sided else 0.0)
        size = cosines if one_sided else np.abs(cosines)
        pull = np.exp(sharpness * (size - size.max())) * (1.0 if one_sided else np.sign(cosines))
        pull /= np.abs(pull).sum(axis=1).max()
        codes -= 0.1 * pull @ codes
        codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    return codes


def _position_frequencies(n: int, n_ctx: int, rng: np.random.Generator) -> Array:
    """Frequencies whose sum of cosines has one clear peak: the best of some seeded draws."""
    offsets = np.arange(1, n_ctx)
    draws = [rng.uniform(0.0, np.pi, n) for _ in range(200)]
    return min(draws, key=lambda frequencies: float(np.cos(offsets[:, None] * frequencies).mean(axis=1).max()))


def _unit(codes: Array) -> Array:
    return np.asarray(codes / np.linalg.norm(codes, axis=1, keepdims=True))


def _word_identities(vocabulary: PlantedVocabulary, dim: int, rng: np.random.Generator) -> list[Array]:
    """Identity codes of every category's words, [n_words, dim] each.

    More words than dimensions must overlap. A code is part codebook entry, part its own, in separate dimensions; a
    category uses an entry at most once. So overlaps gather between words of different categories that share an
    entry, where they are positive and moderate: strong negative overlaps would attract the target's queries.
    """
    dim_shared = (dim + 1) // 2
    n_entries = max(dim_shared, *(len(category.words) for category in vocabulary.categories))
    codebook = spread_codes(n_entries, dim_shared, one_sided=False, rng=rng)
    entries = [rng.permutation(n_entries)[: len(category.words)] for category in vocabulary.categories]
    uses = np.bincount(np.concatenate(entries), minlength=n_entries)
    own = [iter(spread_codes(int(count), dim - dim_shared, one_sided=False, rng=rng)) for count in uses]
    rotation = random_orthogonal(dim, rng)
    share = np.sqrt(SHARED_IDENTITY)
    rest = np.sqrt(1.0 - SHARED_IDENTITY)
    return [
        np.stack([np.concatenate([share * codebook[entry], rest * next(own[entry])]) for entry in used]) @ rotation
        for used in entries
    ]


def build_codes(
    vocabulary: PlantedVocabulary, spaces: Subspaces, *, n_ctx: int, noise: float, rng: np.random.Generator
) -> Codes:
    """Draws every token's embedding and every position's.

    A category word has its category's direction in C0, the identity code of its word in I (shared by its surface
    variants up to a small change) and a code of its own in J. A background token leans weakly towards a random
    category, as ordinary tokens have look-alikes too, and has a random identity and more filler. `noise` adds
    Gaussian vectors in C and I.

    Args:
        vocabulary: tokens and categories.
        spaces: where to write.
        n_ctx: positions.
        noise: root mean square norm of the added vector relative to the norm of the token's clean code.
        rng: seeded generator.

    Returns:
        The codes.
    """
    n_tokens, n_categories = len(vocabulary.tokens), len(vocabulary.categories)
    d_category, d_identity = len(spaces.category), len(spaces.identity)
    category_codes = spread_codes(n_categories, d_category, one_sided=True, rng=rng)
    gain = rng.uniform(*BACKGROUND_GAIN, n_tokens)
    category_of = rng.integers(0, n_categories, n_tokens)
    identity = BACKGROUND_IDENTITY * _unit(rng.standard_normal((n_tokens, d_identity)))
    for index, (category, words) in enumerate(
        zip(vocabulary.categories, _word_identities(vocabulary, d_identity, rng), strict=True)
    ):
        for word, code in zip(category.words, words, strict=True):
            ids = list(word.token_ids)
            # Surface variants are alike, not equal: equal scores would make their order arbitrary.
            gain[ids] = rng.uniform(0.95, 1.05, len(ids))
            category_of[ids] = index
            identity[ids] = _unit(code + 0.2 * _unit(rng.standard_normal((len(ids), d_identity))))
    gain[vocabulary.bos_token_id] = 0.0
    identity[vocabulary.bos_token_id] = 0.0
    identity *= IDENTITY
    identity_norm = np.linalg.norm(identity, axis=1)

    category_noise = (
        noise * CATEGORY * gain[:, None] * rng.standard_normal((n_tokens, d_category)) / np.sqrt(d_category)
    )
    identity_noise = noise * identity_norm[:, None] * rng.standard_normal((n_tokens, d_identity)) / np.sqrt(d_identity)
    token = TOKEN * _unit(rng.standard_normal((n_tokens, len(spaces.token))))

    # What MLP_0 will add counts into the norm, so that LayerNorm scales every token alike from layer 1 on.
    written = CATEGORY * np.maximum(gain - MLP_THRESHOLD, 0.0) / (1.0 - MLP_THRESHOLD)
    is_bos = np.arange(n_tokens) == vocabulary.bos_token_id
    planted = (CATEGORY_SEED * gain) ** 2 + identity_norm**2 + written**2 + TOKEN**2 + BOS**2 * is_bos
    filler = _unit(rng.standard_normal((n_tokens, len(spaces.filler))))
    filler *= np.sqrt(np.maximum(STREAM_NORM**2 - planted, 0.05))[:, None]

    seeds = np.zeros((n_tokens, n_categories))
    seeds[np.arange(n_tokens), category_of] = CATEGORY_SEED * gain
    coordinates = [
        seeds, category_noise, identity + identity_noise, BOS * is_bos[:, None],
        token, filler,
    ]  # fmt: skip
    rows = [spaces.category_seed, spaces.category, spaces.identity, spaces.bos, spaces.token, spaces.filler]
    embedding = np.concatenate(coordinates, axis=1, dtype=np.float32) @ np.concatenate(rows, dtype=np.float32)

    frequencies = _position_frequencies(len(spaces.position) // 2, n_ctx, rng)
    angles = np.arange(n_ctx)[:, None] * frequencies
    waves = np.concatenate([np.cos(angles), np.sin(angles)], axis=1) / np.sqrt(len(frequencies))
    position = (POSITION * waves @ spaces.position).astype(np.float32)
    return Codes(category=category_codes, embedding=embedding, position=position, frequencies=frequencies)
