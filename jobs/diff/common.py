"""Tokens that two runs have in common: by their bytes, so that other vocabularies meet too."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qkatlas.jobs.inputs.head_tables import HeadTables
from qkatlas.pipeline.text.vocabulary import Vocabulary

ABSENT = np.int64(-1)
"""In place of the id of a token that the other run does not have."""


@dataclass(frozen=True, kw_only=True)
class Common:
    """Tokens of two runs.

    Attributes:
        first_C, second_C: int64, ids in the first and second run of each common token, by ascending first id.
        place_of_first, place_of_second: int64 by id, the token's place among the common ones, or ABSENT.
        first: the first run's tokens, for people.
    """

    first_C: np.ndarray
    second_C: np.ndarray
    place_of_first: np.ndarray
    place_of_second: np.ndarray
    first: Vocabulary

    def __len__(self) -> int:
        return len(self.first_C)

    @classmethod
    def of(cls, one: HeadTables, other: HeadTables) -> Common:
        """What two runs have in common; tokens without a name meet by their ids where neither run has a tokenizer.

        Args:
            one: any head of the first run.
            other: any head of the second.

        Raises:
            ValueError: if they have no token in common.
        """
        first, second = one.vocabulary, other.vocabulary
        if not first.has_tokenizer and not second.has_tokenizer:
            shared = range(min(len(first.spellings), len(second.spellings)))
            pairs = [(token, token) for token in shared]
        else:
            ids = {
                (spelling, special): token
                for token, (spelling, special) in enumerate(zip(second.spellings, second.special, strict=True))
                if spelling is not None
            }
            pairs = [
                (token, ids[spelling, special])
                for token, (spelling, special) in enumerate(zip(first.spellings, first.special, strict=True))
                if spelling is not None and (spelling, special) in ids
            ]
        if not pairs:
            raise ValueError(
                f"runs {one.run.folder.name} and {other.run.folder.name} have no token in common; compare runs whose "
                "vocabularies share some"
            )
        first_C, second_C = np.array(pairs, np.int64).T
        return cls(
            first_C=first_C,
            second_C=second_C,
            place_of_first=_places(first_C, len(first.spellings)),
            place_of_second=_places(second_C, len(second.spellings)),
            first=first,
        )


def _places(ids_C: np.ndarray, size: int) -> np.ndarray:
    places = np.full(size, ABSENT)
    places[ids_C] = np.arange(len(ids_C))
    return places
