"""Pairs of words that a head should attend along, or not, and random words in their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qkatlas.jobs.inputs.frequencies import Frequencies
from qkatlas.jobs.inputs.words import token_of
from qkatlas.pipeline.text import streams
from qkatlas.pipeline.text.vocabulary import Vocabulary

NEAREST = 200
"""Words of about the same frequency that a word is exchanged for."""


@dataclass(frozen=True)
class AskedPair:
    """A query and a key.

    Attributes:
        query_id, key_id: their tokens.
        wanted: whether the query should attend to the key.
        text: as it was written, for people.
    """

    query_id: int
    key_id: int
    wanted: bool
    text: str


def asked_pairs(
    attends: Sequence[tuple[str, str]], avoids: Sequence[tuple[str, str]], vocabulary: Vocabulary
) -> list[AskedPair]:
    """The tokens of pairs of words.

    Args:
        attends: queries and the keys that they should attend to.
        avoids: queries and the keys that they should not.
        vocabulary: of the model.

    Raises:
        ValueError: if a word is no single token.
    """
    return [
        AskedPair(token_of(query, vocabulary), token_of(key, vocabulary), wanted, f"{query}:{key}")
        for pairs, wanted in ((attends, True), (avoids, False))
        for query, key in pairs
    ]


def look_alike_frequencies(
    token_ids: Sequence[int], vocabulary: Vocabulary, frequencies: Frequencies | None
) -> dict[int, np.ndarray]:
    """For each token some others of the same form and about the same frequency.

    The form is whether it begins with a space, and whether the rest is letters, digits or neither. Without counts the
    order of ids stands for that of frequencies, as it does in vocabularies made by merging frequent pairs.

    Args:
        token_ids: the tokens, each once.
        vocabulary: of the model.
        frequencies: counts, most frequent first.
    """
    others = np.setdiff1d(np.array(vocabulary.ordinary(), np.int64), token_ids)
    rank_V = np.arange(len(vocabulary.spellings))
    if frequencies is not None:
        rank_V[:] = len(frequencies.token_ids)
        rank_V[list(frequencies.token_ids)] = np.arange(len(frequencies.token_ids))
    forms = np.array([_form(vocabulary, token) for token in others.tolist()])
    found = {}
    for token in token_ids:
        alike = others[forms == _form(vocabulary, token)]
        alike = alike if len(alike) >= NEAREST // 10 else others
        order = np.argsort(np.abs(rank_V[alike] - rank_V[token]), kind="stable")
        found[token] = np.sort(alike[order[:NEAREST]]) if len(alike) else np.array([token])
    return found


def random_tuples(pairs: Sequence[AskedPair], others: dict[int, np.ndarray], *, draws: int, seed: int) -> np.ndarray:
    """The pairs with every word exchanged for a random one, the same everywhere it stands.

    Args:
        pairs: what is asked for.
        others: what each token may be exchanged for.
        draws: how many tuples.
        seed: of the choice.

    Returns:
        int64 [draws, P, 2] token ids.
    """
    rng = streams.RANDOM_WORDS.generator(seed)
    chosen = {token: others[token][rng.integers(0, len(others[token]), draws)] for token in sorted(others)}
    return np.stack([np.stack([chosen[pair.query_id], chosen[pair.key_id]], axis=1) for pair in pairs], axis=1)


def _form(vocabulary: Vocabulary, token: int) -> str:
    spelling = vocabulary.spellings[token] or b""
    word = spelling.removeprefix(b" ").decode("utf-8", "replace")
    kind = "letters" if word.isalpha() else "digits" if word.isdigit() else "other"
    return f"{'spaced ' * spelling.startswith(b' ')}{kind}"
