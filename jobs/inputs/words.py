"""Words as people write them, and the tokens that they are."""

from __future__ import annotations

import difflib

from qkatlas.pipeline.text.vocabulary import Vocabulary

_SUGGESTIONS = 5


def token_of(word: str, vocabulary: Vocabulary) -> int:
    """The token that a person means.

    Args:
        word: in any spelling that `Vocabulary.find_word` takes, or `#17` for id 17.
        vocabulary: of the model.

    Raises:
        ValueError: if it is no single token; names some that are like it.
    """
    found = vocabulary.find_word(word)
    if found is not None:
        return found
    if word.startswith("#") and word[1:].isdecimal():
        raise ValueError(
            f"token {word} is outside the vocabulary; choose an id from #0 to #{len(vocabulary.spellings) - 1}"
        )
    alike = suggestions(word, vocabulary)
    remedy = f"near it are {', '.join(alike)}" if alike else "name a token's text, or its id as #17"
    raise ValueError(f"{word!r} is no single token of the model; {remedy}")


def suggestions(word: str, vocabulary: Vocabulary) -> list[str]:
    """Tokens whose texts are like a word, nearest first, as they may be typed.

    Args:
        word: what was written.
        vocabulary: of the model.
    """
    bare = word.strip().lower()
    by_text: dict[str, int] = {}
    for token_id in vocabulary.ordinary():
        text = vocabulary.text(token_id).strip().lower()
        # A rough sieve first: comparing every token letter by letter takes a second.
        if text and text[0] == bare[:1] and abs(len(text) - len(bare)) <= max(2, len(bare) // 2):
            by_text.setdefault(text, token_id)
    near = difflib.get_close_matches(bare, by_text, n=_SUGGESTIONS, cutoff=0.5)
    return [vocabulary.shown(by_text[text]) for text in near]
