"""Every stream of random numbers that a result depends on, in one place.

A stream is NumPy's SeedSequence of a tuple of whole numbers and a spawn key, which keeps streams of the same numbers
apart. Its values are part of every result that was ever stored: a stream may be added here and never changed.

Numbers fill a pool of four 32-bit words, padded with zeros (a number above 2**32 - 1 takes two words), and a spawn key
follows after the fourth. Streams with different keys therefore differ whatever their numbers, as long as these fit
into the four words. Streams without a key are apart by their numbers alone, so these coincide:

- NULL_HEADS of a head and CONTROLS of the same head, draw 0: one draws normal frames, the other chooses eigenvalues;
- RESTARTS, SPEARMAN_ROWS and PLANTED, where seed and second number are equal, and NULL_HEADS of that layer's head 0;
- KEY_ORDER and any of these where all numbers are 0.

None of these is compared with its double, and no result leans on their being independent. One overflow is known:
CONTROLS with a seed from 2**32 on takes five words, and draw 1 is then the TOKENS stream of the same head. The layout
of a graph draws from Python's own generator, by the seed alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Stream:
    """A stream of random numbers.

    Attributes:
        name: of the constant in this file.
        key: its spawn key; None for streams that had none when results were first stored.
    """

    name: str
    key: int | None = None

    def sequence(self, *numbers: int, part: int | None = None) -> np.random.SeedSequence:
        """Return the stream's seed sequence.

        Args:
            numbers: what the stream stands for, such as a seed and a head; each at least 0.
            part: one of several streams of the same numbers, for a stream with a key.
        """
        assert part is None or self.key is not None, self
        spawn_key = tuple(number for number in (self.key, part) if number is not None)
        return np.random.SeedSequence(numbers, spawn_key=spawn_key)

    def generator(self, *numbers: int, part: int | None = None) -> np.random.Generator:
        """Return a generator at the start of the stream; arguments as of `sequence`."""
        return np.random.default_rng(self.sequence(*numbers, part=part))


TOKENS = Stream("TOKENS", 1)
"""Resamples of the tokens behind a head's interval in `heads`: seed, layer, head."""

CATEGORY_PROMPTS = Stream("CATEGORY_PROMPTS", 2)
"""The words of one category prompt: seed, number of the prompt."""

REFERENCE_PROMPTS = Stream("REFERENCE_PROMPTS", 3)
"""The reference prompts behind the token states `mean`: 0, so that they are the same for every run."""

BEHAVIOUR = Stream("BEHAVIOUR", 4)
"""Token sequences of the behaviour scores: seed; a part for each kind, which has a child of its own for its pieces."""

PARTNERS = Stream("PARTNERS", 5)
"""The cycle that gives each passage the one it is resampled from: seed."""

PASSAGES = Stream("PASSAGES", 6)
"""Paired resamples of passages behind the intervals of an ablation: seed."""

STATE_PAIRS = Stream("STATE_PAIRS", 7)
"""Pairs of tokens whose states are compared: size of the vocabulary."""

NULL_OV_HEADS = Stream("NULL_OV_HEADS", 8)
"""Random heads that what a head writes is compared with: seed, layer, head."""

RANDOM_WORDS = Stream("RANDOM_WORDS", 9)
"""Random words in place of asked ones: seed."""

BACKGROUND_KEYS = Stream("BACKGROUND_KEYS", 10)
"""Keys that stand for the vocabulary: seed."""

COMMON_TOKENS = Stream("COMMON_TOKENS", 11)
"""Tokens of two runs by which all their heads are compared: how many they have in common."""

SHUFFLES = Stream("SHUFFLES", 12)
"""Shuffled targets of a relation: seed, number of the relation."""

NULL_FEATURES = Stream("NULL_FEATURES", 21)
"""Random features of equal density that a head's are compared with: seed, layer, head."""

PLANTED_FEATURES = Stream("PLANTED_FEATURES", 22)
"""One planted dictionary: seed of the design, its layer."""

TASKS = Stream("TASKS", 13)
"""The prompts of one task: seed, number of the task."""

TASK_AUDIT = Stream("TASK_AUDIT", 14)
"""Heads that are measured although their linear estimate is small: seed, number of the task in the run."""

RANDOM_WEIGHTS = Stream("RANDOM_WEIGHTS", 15)
"""Weights in another order: seed, number of the tensor."""

CORRUPTED = Stream("CORRUPTED", 16)
"""Tokens that take the place of those of a prefix in a text: seed, window."""

HEAD_GROUPS = Stream("HEAD_GROUPS", 23)
"""Random groups of heads that a group is compared with: seed, number of the draw."""

SHUFFLED_TEXT = Stream("SHUFFLED_TEXT", 24)
"""The order of a text's tokens where it is shuffled: seed."""

LATENTS = Stream("LATENTS", 25)
"""Tokens that latents are found from again: seed, layer, neuron; or, for those of a layer, seed, layer; a part for each
time."""

NULL_HEADS = Stream("NULL_HEADS")
"""Random heads that a spectrum is compared with: seed, layer, head."""

CONTROLS = Stream("CONTROLS")
"""Eigenvalues that a control of steering changes: seed, layer, head, draw."""

SPEARMAN_ROWS = Stream("SPEARMAN_ROWS")
"""Tokens whose rows are ranked whole when steering is measured: seed, size of the vocabulary."""

RESTARTS = Stream("RESTARTS")
"""The seed of one restart of Leiden: seed, number of the restart."""

PLANTED = Stream("PLANTED")
"""One part of a planted checkpoint: seed of the design, number of the part."""

KEY_ORDER = Stream("KEY_ORDER")
"""The order in which the CPU engine visits keys: 0; no result depends on it."""

STREAMS = (
    TOKENS, CATEGORY_PROMPTS, REFERENCE_PROMPTS, BEHAVIOUR, PARTNERS, PASSAGES, STATE_PAIRS,
    NULL_OV_HEADS, RANDOM_WORDS, BACKGROUND_KEYS, COMMON_TOKENS, SHUFFLES, NULL_FEATURES, PLANTED_FEATURES,
    TASKS, TASK_AUDIT, RANDOM_WEIGHTS, CORRUPTED, HEAD_GROUPS, SHUFFLED_TEXT, LATENTS,
    NULL_HEADS, CONTROLS, SPEARMAN_ROWS, RESTARTS, PLANTED, KEY_ORDER,
)  # fmt: skip
"""All of them."""
