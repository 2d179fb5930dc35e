"""Prompts of one task, each beside its matched control.

A control has its prompt's length, answers and places of answers, and what makes the answer known is taken out of it.
There are two ways to do so. By *order*: the same tokens, some of them at other places. By *exchange*: the token that
gives the answer away changes places with that of another prompt, so that at every position all controls together hold
the same tokens as all prompts together. Either way a task's controls hold the very tokens that its prompts hold.

Shapes: P prompts, T positions (the first is BOS), A answers of a prompt.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

ORDER, EXCHANGE, GIVEN = "order", "exchange", "given"
"""How a control is made: see above; `given` with the prompts, by the user."""


@dataclass(frozen=True, kw_only=True)
class TaskPrompts:
    """The prompts of one task.

    Attributes:
        task: its name.
        control: how its controls are made.
        tokens_PT: int64, the prompts; shorter ones have BOS behind them, which nothing reads.
        control_PT: int64, their controls.
        places_PA: int64, the positions whose next token is asked for.
        answers_PA: int64, these tokens.
        shuffled_PA: int64, answers of other prompts, for a null.
        source: where the answer to the only question stands; None where there are several, or none.
        corrupted_PT: int64, the prompts with one token of the repeated prefix replaced; None where there is none.
    """

    task: str
    control: str
    tokens_PT: IntArray
    control_PT: IntArray
    places_PA: IntArray
    answers_PA: IntArray
    shuffled_PA: IntArray
    source: int | None = None
    corrupted_PT: IntArray | None = None

    def __post_init__(self) -> None:
        assert self.tokens_PT.shape == self.control_PT.shape
        assert self.places_PA.shape == self.answers_PA.shape == self.shuffled_PA.shape

    def __len__(self) -> int:
        return len(self.tokens_PT)

    def __getitem__(self, rows: slice) -> TaskPrompts:
        return TaskPrompts(
            task=self.task, control=self.control, tokens_PT=self.tokens_PT[rows], control_PT=self.control_PT[rows],
            places_PA=self.places_PA[rows], answers_PA=self.answers_PA[rows], shuffled_PA=self.shuffled_PA[rows],
            source=self.source, corrupted_PT=None if self.corrupted_PT is None else self.corrupted_PT[rows],
        )  # fmt: skip

    def read_PT(self) -> npt.NDArray[np.bool_]:
        """Which positions some answer can depend on: all up to a prompt's last question."""
        read_PT: npt.NDArray[np.bool_] = np.arange(self.tokens_PT.shape[1]) <= self.places_PA.max(axis=1)[:, None]
        return read_PT

    @property
    def of_one_length(self) -> bool:
        """Whether all prompts are equally long."""
        return bool(self.read_PT().all())

    def sha256(self) -> str:
        """Hash of all that is run and asked."""
        digest = hashlib.sha256(f"{self.task} {self.control} {self.source}".encode())
        for values in (self.tokens_PT, self.control_PT, self.places_PA, self.answers_PA, self.shuffled_PA,
                       self.corrupted_PT):  # fmt: skip
            if values is not None:
                digest.update(f"{values.shape}".encode() + np.ascontiguousarray(values, "<i8").tobytes())
        return digest.hexdigest()


def others(values_P: IntArray, rng: np.random.Generator) -> IntArray:
    """For each prompt another one with another value, each prompt once, as far as that can be.

    Args:
        values_P: what has to differ.
        rng: seeded generator.

    Returns:
        int64 [P], a permutation. With a value that over half of the prompts have some keep their own value.
    """
    count = len(values_P)
    shuffled = rng.permutation(count)
    order_P = shuffled[np.argsort(values_P[shuffled], kind="stable")]
    # Equal values now stand side by side; a turn by the longest run of them meets another one everywhere.
    _, runs = np.unique(values_P, return_counts=True)
    other_P = np.empty(count, np.int64)
    other_P[order_P] = np.roll(order_P, -int(runs.max()))
    return other_P


def balanced(choices: IntArray, count: int, rng: np.random.Generator) -> IntArray:
    """Draw from some values, all of them equally often but for the remainder, in random order."""
    repeats = -(-count // len(choices))
    drawn = np.concatenate([rng.permutation(choices) for _ in range(repeats)])[:count]
    return rng.permutation(drawn).astype(np.int64)
