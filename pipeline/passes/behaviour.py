"""Behaviour scores: how much attention a head gives to the previous token, to repeats, and to BOS.

Every sequence is BOS, a block of n random tokens and n tokens more, either the block again or a few pieces of it
between fresh random tokens. No token occurs otherwise than stated, so that a score means one thing.

Shapes: P sequences, T = 1 + 2n positions, N heads, Q measured (sequence, query, key) triples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from qkatlas.pipeline.models.reach import reach
from qkatlas.pipeline.text import streams
from qkatlas.pipeline.text.prompts import random_tokens

LONGEST_PREFIX = 4
"""Longest repeated prefix that induction is measured after."""

BEHAVIOURS = (
    "previous_token_score",
    "duplicate_token_score",
    "induction_score",
    *(f"prefix_induction_score_{length}" for length in range(1, LONGEST_PREFIX + 1)),
    "bos_share",
)
"""Names of the scores, each a mean attention probability:

- previous_token_score: to the position before, in text without repeats;
- duplicate_token_score: to the earlier occurrence of the query's token, in a repeated block;
- induction_score: to the token after that occurrence, in a repeated block;
- prefix_induction_score_p: the same at the end of a repeat of exactly p tokens, with fresh tokens before it;
- bos_share: to BOS, in text without repeats.
"""

LARGEST_BLOCK, SMALLEST_BLOCK = 32, 2 * (LONGEST_PREFIX + 1)
"""Tokens of a block; a model that has no room or tokens for the smallest has no behaviour scores."""

SEQUENCES_PER_KIND = 16
"""Sequences with the whole block repeated, and as many for each length of prefix."""

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sequences:
    """Sequences of one kind, and where in them to look.

    Attributes:
        tokens_PT: int64 [P, T].
        places: name of a score -> int64 [Q, 3] of sequence, query position and key position.
    """

    tokens_PT: IntArray
    places: dict[str, IntArray]


def block_length(n_ctx: int, n_ordinary: int) -> int | None:
    """Tokens of a block for a model, or None if it has no room for the smallest.

    Args:
        n_ctx: positions the model reads.
        n_ordinary: ordinary tokens of its vocabulary.
    """
    length = min(LARGEST_BLOCK, (n_ctx - 1) // 2, n_ordinary // 2)
    return length if length >= SMALLEST_BLOCK else None


def draw_sequences(ordinary: Sequence[int], *, bos: int, block: int, seed: int) -> list[Sequences]:
    """Draw the sequences: first those with the block repeated, then those for each length of prefix.

    Args:
        ordinary: token ids to draw from, at least two blocks.
        bos: token id of BOS.
        block: tokens of a block, n.
        seed: of the draws.

    Returns:
        One entry a kind.
    """
    kinds = [streams.BEHAVIOUR.sequence(seed, part=kind) for kind in range(LONGEST_PREFIX + 1)]
    tokens = [
        random_tokens(np.asarray(ordinary), bos=bos, count=SEQUENCES_PER_KIND, length=2 * block, seed=kind)
        for kind in kinds
    ]
    repeated_PT = tokens[0]
    repeated_PT[:, 1 + block :] = repeated_PT[:, 1 : 1 + block]
    fresh, again = np.arange(2, 1 + block), np.arange(1 + block, 1 + 2 * block)
    everywhere = {
        "previous_token_score": (fresh, fresh - 1),
        "bos_share": (fresh, np.zeros_like(fresh)),
        "duplicate_token_score": (again, again - block),
        # The last token of the block is followed by the first of its repeat.
        "induction_score": (again, again - block + 1),
    }
    places = {
        name: np.array([(p, q, k) for p in range(SEQUENCES_PER_KIND) for q, k in zip(queries, keys, strict=True)])
        for name, (queries, keys) in everywhere.items()
    }
    drawn = [Sequences(repeated_PT, places)]
    for prefix in range(1, LONGEST_PREFIX + 1):
        rng = np.random.default_rng(kinds[prefix].spawn(1)[0])
        drawn.append(_with_prefixes(tokens[prefix], block, prefix, rng))
    return drawn


def _with_prefixes(tokens_PT: IntArray, block: int, prefix: int, rng: np.random.Generator) -> Sequences:
    """Copy pieces of `prefix` tokens of the block behind it, each after a fresh token; no two pieces overlap."""
    places = []
    for sequence, tokens_T in enumerate(tokens_PT):
        # A piece and the token after it in the block, or a fresh token and the piece behind it, are one slot.
        slots = block // (prefix + 1)
        sources = 1 + (prefix + 1) * rng.permutation(slots)
        for slot, source in enumerate(sources):
            target = 1 + block + slot * (prefix + 1) + 1
            tokens_T[target : target + prefix] = tokens_T[source : source + prefix]
            places.append((sequence, target + prefix - 1, source + prefix))
    return Sequences(tokens_PT, {f"prefix_induction_score_{prefix}": np.array(places)})


def behaviour_sums(scores_PNTT: torch.Tensor, places: dict[str, IntArray], sequences: range) -> dict[str, np.ndarray]:
    """Sum a head's attention at the places of some sequences.

    Args:
        scores_PNTT: pre-softmax attention scores of these sequences.
        places: of all sequences of the kind.
        sequences: which of them the scores are of.

    Returns:
        Name of a score -> float64 [N].
    """
    pattern_PNTT = causal_pattern(scores_PNTT)
    sums = {}
    for name, places_Q3 in places.items():
        here = places_Q3[(places_Q3[:, 0] >= sequences.start) & (places_Q3[:, 0] < sequences.stop)]
        sequence, query, key = torch.from_numpy(here).to(pattern_PNTT.device).unbind(dim=1)
        sums[name] = pattern_PNTT[sequence - sequences.start, :, query, key].sum(dim=0).cpu().numpy()
    return sums


def base_rates(places: Mapping[str, IntArray], window: int | None = None) -> dict[str, float]:
    """What the scores of a head would be whose attention fell on the keys it reads at random, however narrow it is.

    Args:
        places: of all sequences of a kind.
        window: positions that a query reads; None = all before it.

    Returns:
        Name of a score -> the mean of one over the number of keys; keys outside the window count as none.
    """
    rates = {}
    for name, places_Q3 in places.items():
        query_Q, key_Q = places_Q3[:, 1], places_Q3[:, 2]
        reads_Q = np.minimum(query_Q + 1, window or query_Q.max() + 1)
        rates[name] = float(np.where(query_Q - key_Q < reads_Q, 1 / reads_Q, 0.0).mean())
    return rates


def causal_pattern(scores_PNTT: torch.Tensor) -> torch.Tensor:
    """The attention pattern of pre-softmax scores, float64; entries after the query are not read.

    Args:
        scores_PNTT: the scores.

    Returns:
        float64 [P, N, T, T], each row a distribution over the keys up to its query.
    """
    read_TT = reach(scores_PNTT.shape[2], device=scores_PNTT.device)
    return torch.softmax(scores_PNTT.double().masked_fill(~read_TT, -torch.inf), dim=-1)
