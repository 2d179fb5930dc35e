"""Tasks of random tokens: repeated blocks, exact prefixes, and ids of links.

Shapes as in `prompts`; n tokens of a block, p tokens of a prefix.
"""

from __future__ import annotations

import string
from collections import Counter

import numpy as np

from qkatlas.pipeline.tasks.kinds import BLOCK, PREFIXES, URLS
from qkatlas.pipeline.tasks.prompts import ORDER, IntArray, TaskPrompts, others
from qkatlas.pipeline.tasks.words import Words

BLOCK_TOKENS = 12
"""Tokens of a repeated block."""

FILLER = 6
"""Random tokens before the prefix, and again between its two occurrences."""

ID_CHARACTERS = 10
"""Characters of a link's id."""

_LINK = "https://t.co/"

_LINK_TOKENS = 8
"""Most tokens of what stands before the id; a vocabulary that spells it letter by letter knows no links."""


def block(ordinary: IntArray, *, bos: int, count: int, rng: np.random.Generator) -> TaskPrompts:
    """A block of random tokens and the same block again, all but its first token to be predicted.

    Control: the first block is in another order, no token followed by the one that follows it in the second.

    Args:
        ordinary: ids to draw from.
        bos: token id of BOS.
        count: prompts.
        rng: seeded generator.
    """
    n = BLOCK_TOKENS
    blocks_PN = np.stack([rng.choice(ordinary, n, replace=False) for _ in range(count)])
    mixed_PN = np.stack([tokens[_without_neighbours(n, rng)] for tokens in blocks_PN])
    first_P = np.full((count, 1), bos)
    answers_PA = blocks_PN[:, 1:]
    return TaskPrompts(
        task=BLOCK,
        control=ORDER,
        tokens_PT=np.concatenate([first_P, blocks_PN, blocks_PN[:, :-1]], axis=1).astype(np.int64),
        control_PT=np.concatenate([first_P, mixed_PN, blocks_PN[:, :-1]], axis=1).astype(np.int64),
        places_PA=np.tile(np.arange(n + 1, 2 * n), (count, 1)),
        answers_PA=answers_PA,
        shuffled_PA=answers_PA[others(np.arange(count), rng)],
    )


def after_prefix(task: str, ordinary: IntArray, *, bos: int, count: int, rng: np.random.Generator) -> TaskPrompts:
    """Random tokens with p of them repeated at the end, after a fresh one: what followed them is to be predicted.

    Control: what followed changes places with the last token but one of the filler. Corrupted: of the repeated tokens
    the one before the last is another, so that a prefix of one token is left.

    Args:
        task: one of PREFIXES.
        ordinary: ids to draw from.
        bos: token id of BOS.
        count: prompts.
        rng: seeded generator.
    """
    p = PREFIXES[task]
    length = 2 * FILLER + p + 1
    drawn_PN = np.stack([rng.choice(ordinary, length + 1, replace=False) for _ in range(count)]).astype(np.int64)
    # FILLER tokens, the prefix, the answer, FILLER tokens; then the prefix again.
    body_PN, extra_P = drawn_PN[:, :length], drawn_PN[:, length]
    prefix = slice(FILLER, FILLER + p)
    source = FILLER + p
    tokens_PT = np.concatenate([np.full((count, 1), bos), body_PN, body_PN[:, prefix]], axis=1)
    control_PT, answers_P = tokens_PT.copy(), body_PN[:, source]
    other = length - 1
    control_PT[:, [1 + source, other]] = tokens_PT[:, [other, 1 + source]]
    corrupted_PT = None
    if p > 1:
        corrupted_PT = tokens_PT.copy()
        corrupted_PT[:, -2] = extra_P
    return TaskPrompts(
        task=task,
        control=ORDER,
        tokens_PT=tokens_PT,
        control_PT=control_PT,
        places_PA=np.full((count, 1), tokens_PT.shape[1] - 1),
        answers_PA=answers_P[:, None],
        shuffled_PA=answers_P[others(answers_P, rng)][:, None],
        source=1 + source,
        corrupted_PT=corrupted_PT,
    )


def links(words: Words, *, bos: int, count: int, rng: np.random.Generator) -> TaskPrompts | None:
    """A link with a random id, all of whose tokens are to be predicted; None where the vocabulary has no such text.

    Control: what stands before the id is in another order, so that it is no link.

    Args:
        words: of the vocabulary.
        bos: token id of BOS.
        count: prompts.
        rng: seeded generator.
    """
    link_N = words.text(_LINK)
    if len(link_N) > _LINK_TOKENS:
        return None
    alphabet = list(string.ascii_letters + string.digits)
    drawn: list[tuple[int, ...]] = []
    for _ in range(20):
        ids = ["".join(rng.choice(alphabet, ID_CHARACTERS)) for _ in range(count)]
        encoded = [words.text(_LINK + one) for one in ids]
        # Prompts are of one length, and a link must not run into its id.
        drawn += [
            tuple(map(int, tokens[len(link_N) :]))
            for tokens in encoded
            if np.array_equal(tokens[: len(link_N)], link_N)
        ]
        lengths = Counter(map(len, drawn))
        if lengths and max(lengths.values()) >= count:
            break
    else:
        return None
    length = max(lengths, key=lambda size: (lengths[size], -size))
    ids_PA = np.array([tokens for tokens in drawn if len(tokens) == length][:count], np.int64)
    mixed_PN = np.stack([link_N[_without_neighbours(len(link_N), rng)] for _ in range(count)])
    first_P1, links_PN = np.full((count, 1), bos), np.tile(link_N, (count, 1))
    start = len(link_N)
    return TaskPrompts(
        task=URLS,
        control=ORDER,
        tokens_PT=np.concatenate([first_P1, links_PN, ids_PA[:, :-1]], axis=1),
        control_PT=np.concatenate([first_P1, mixed_PN, ids_PA[:, :-1]], axis=1),
        places_PA=np.tile(np.arange(start, start + length), (count, 1)),
        answers_PA=ids_PA,
        shuffled_PA=ids_PA[others(np.arange(count), rng)],
    )


def _without_neighbours(count: int, rng: np.random.Generator) -> IntArray:
    """An order of places in which none is followed by the place that came after it."""
    while True:
        order_N = rng.permutation(count)
        if not (np.diff(order_N) == 1).any():
            return order_N
