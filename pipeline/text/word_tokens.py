"""Every token that spells a word of a semantic category, in whatever case and with or without a leading space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qkatlas.pipeline.text.categories import read_categories
from qkatlas.pipeline.text.vocabulary import Vocabulary

Int32Array = npt.NDArray[np.int32]


@dataclass(frozen=True)
class TokenCategory:
    """The tokens of one category.

    Attributes:
        name: of the category.
        token_ids: int32, ascending.
    """

    name: str
    token_ids: Int32Array


def token_categories(vocabulary: Vocabulary) -> list[TokenCategory]:
    """The tokens of a vocabulary that spell one word of a category of `data/categories.csv`.

    A token belongs to a category if its text, without one leading space and without regard to case, is one of the
    category's words: " red", "red", " Red" and "RED" are all colours.

    Args:
        vocabulary: of the model.

    Returns:
        The categories with at least two tokens, in the order of the list.
    """
    place = {word.casefold(): name for name, words in read_categories() for word in words}
    members: dict[str, list[int]] = {}
    for token_id, spelling in enumerate(vocabulary.spellings):
        if spelling is None or vocabulary.special[token_id]:
            continue
        text = spelling.decode("utf-8", errors="backslashreplace").removeprefix(" ")
        if (name := place.get(text.casefold())) is not None:
            members.setdefault(name, []).append(token_id)
    names = [name for name, _ in read_categories() if len(members.get(name, ())) > 1]
    return [TokenCategory(name, np.array(members[name], np.int32)) for name in names]
