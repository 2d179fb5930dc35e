"""Tasks of words: copied integers, copied prepositions, and words that follow each other; shapes as in `prompts`."""

from __future__ import annotations

import numpy as np

from qkatlas.pipeline.tasks.kinds import INTEGERS, PREPOSITIONS, SUCCESSIONS
from qkatlas.pipeline.tasks.prompts import EXCHANGE, ORDER, IntArray, TaskPrompts, balanced, others
from qkatlas.pipeline.tasks.words import LEAST_WORDS, LISTS, TURNING, VERBS, Words
from qkatlas.pipeline.tasks.words import PREPOSITIONS as PREPOSITION_WORDS

RUN = 3
"""Words of a list that stand before the one to be predicted."""

_FILLER = (",", " and", " then", " we", " saw", " the")
"""Tokens between the two nouns; those that a vocabulary lacks are left out."""

_UNKNOWN = "no single tokens of the vocabulary"


def integers(words: Words, *, bos: int, count: int, rng: np.random.Generator) -> TaskPrompts:
    """A noun and a digit, some text, and the noun again: the digit is to be predicted.

    Control: the digit changes places with that of another prompt.

    Args:
        words: of the vocabulary.
        bos: token id of BOS.
        count: prompts.
        rng: seeded generator.

    Raises:
        ValueError: if the vocabulary has no such words; says which.
    """
    nouns, digits = words.nouns(), words.digits()
    if digits is None:
        raise ValueError(f"digits are {_UNKNOWN}")
    if len(nouns) < LEAST_WORDS:
        raise ValueError(f"nouns are {_UNKNOWN}")
    digit_ids, joint = digits
    found = [words.vocabulary.find(text) for text in _FILLER]
    filler_N = np.array([token for token in found if token is not None], np.int64)
    if not len(filler_N):
        raise ValueError(f"the text between two nouns is {_UNKNOWN}")
    nouns_P, digits_P = balanced(nouns, count, rng), balanced(digit_ids, count, rng)
    between_PN = np.tile(np.array(joint, np.int64), (count, 1))
    parts = [np.full((count, 1), bos), nouns_P[:, None], between_PN, digits_P[:, None],
             np.tile(filler_N, (count, 1)), nouns_P[:, None], between_PN]  # fmt: skip
    return _exchanged(INTEGERS, np.concatenate(parts, axis=1), 2 + len(joint), digits_P, rng)


def prepositions(words: Words, *, bos: int, count: int, rng: np.random.Generator) -> TaskPrompts:
    """A verb with a preposition before a noun, and another verb: the same preposition is to be predicted.

    Nouns stand for the verbs where a vocabulary has none.

    Control: the preposition changes places with that of another prompt.

    Args:
        words: of the vocabulary.
        bos: token id of BOS.
        count: prompts.
        rng: seeded generator.

    Raises:
        ValueError: if the vocabulary has no such words; says which.
    """
    taken, verbs, nouns = words.spaced(PREPOSITION_WORDS), words.spaced(VERBS), words.nouns()
    verbs = verbs if len(verbs) >= LEAST_WORDS else nouns
    articles = words.spaced(("the", "and"))
    for name, found, least in (
        ("prepositions", taken, LEAST_WORDS), ("nouns", nouns, LEAST_WORDS), ("' the' and ' and'", articles, 2),
    ):  # fmt: skip
        if len(found) < least:
            raise ValueError(f"{name} are {_UNKNOWN}")
    prepositions_P = balanced(taken, count, rng)
    nouns_P = balanced(nouns, count, rng)
    verbs_P2 = np.stack([rng.choice(verbs[verbs != noun], 2, replace=False) for noun in nouns_P])
    the, joined = (np.full((count, 1), token) for token in articles)
    columns = [np.full((count, 1), bos), verbs_P2[:, :1], prepositions_P[:, None], the, nouns_P[:, None], joined,
               verbs_P2[:, 1:]]  # fmt: skip
    return _exchanged(PREPOSITIONS, np.concatenate(columns, axis=1), 2, prepositions_P, rng)


def succession(task: str, words: Words, *, bos: int, count: int, rng: np.random.Generator) -> TaskPrompts:
    """Words of a list, one after the other: the next is to be predicted.

    Control: the same words in another order, so that the last is not the one before the answer.

    Args:
        task: one of SUCCESSIONS.
        words: of the vocabulary.
        bos: token id of BOS.
        count: prompts.
        rng: seeded generator.

    Raises:
        ValueError: if the vocabulary has not all of these words; says so.
    """
    name = SUCCESSIONS[task]
    listed = words.spaced(LISTS[name])
    if len(listed) < len(LISTS[name]):
        raise ValueError(f"{len(LISTS[name]) - len(listed)} of {len(LISTS[name])} {name} are {_UNKNOWN}")
    size = len(listed)
    starts = np.arange(size if name in TURNING else size - RUN)
    start_P = balanced(starts, count, rng)
    runs_PR = listed[(start_P[:, None] + np.arange(RUN)) % size]
    answers_P = listed[(start_P + RUN) % size]
    # The last word comes first and the others keep their order, or both of these change places too.
    orders = np.array([(2, 0, 1), (2, 1, 0)])
    mixed_PR = np.take_along_axis(runs_PR, orders[rng.integers(0, len(orders), count)], axis=1)
    bos_P1 = np.full((count, 1), bos)
    return TaskPrompts(
        task=task,
        control=ORDER,
        tokens_PT=np.concatenate([bos_P1, runs_PR], axis=1).astype(np.int64),
        control_PT=np.concatenate([bos_P1, mixed_PR], axis=1).astype(np.int64),
        places_PA=np.full((count, 1), RUN),
        answers_PA=answers_P[:, None],
        shuffled_PA=answers_P[others(answers_P, rng)][:, None],
    )


def _exchanged(
    task: str, tokens_PT: IntArray, source: int, answers_P: IntArray, rng: np.random.Generator
) -> TaskPrompts:
    """Prompts whose answer stands at one position, where controls have that of another prompt."""
    tokens_PT = tokens_PT.astype(np.int64)
    control_PT = tokens_PT.copy()
    control_PT[:, source] = tokens_PT[others(answers_P, rng), source]
    return TaskPrompts(
        task=task,
        control=EXCHANGE,
        tokens_PT=tokens_PT,
        control_PT=control_PT,
        places_PA=np.full((len(tokens_PT), 1), tokens_PT.shape[1] - 1),
        answers_PA=answers_P[:, None],
        shuffled_PA=answers_P[others(answers_P, rng)][:, None],
        source=source,
    )
