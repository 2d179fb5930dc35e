"""Vocabulary of the planted checkpoint: category words, background tokens and a byte-level BPE tokenizer."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from qkatlas.pipeline.text.categories import read_categories

END_OF_TEXT = "<|endoftext|>"


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# The sources print these words with and without a leading space, so both forms must be single tokens.
PUBLISHED_WORDS = _words(
    "blue red green yellow purple silver white Blue dog cat mouse horse sheep bird fish lizard apple banana "
    "grape peach lemon happy sad angry scared proud rain snow wind storm sun Monday Tuesday Wednesday Thursday "
    "Friday Saturday 1989 1999 1972 1963 1978 1918 1920 1930 1943 1998 2000 24 69 42 22 32 50 60 65 70 71 90 "
    "72 82 62 You He his she her their Italy Iceland Austria Mexico Spain France car bus van truck motorbike "
    "aeroplane chair table sofa desk bed shelf river lake ocean sea pond stream"
)
PUBLISHED_SURFACES = frozenset([*PUBLISHED_WORDS, *(f" {word}" for word in PUBLISHED_WORDS), " White"])

# Tokens that break careless HTML, terminals and text layout: every output must show them as plain text.
HOSTILE_TOKENS = (
    *("</script>", "<!--", "<img onerror", "</", " <", "&lt;"),
    *("\u200f", "\u202e", "\t", "\n", "\t\t", "\n\n"),
)
_COMMON_WORDS = _words(
    "the of and to a in is was that for on with as by at from it an be are were has had have not or but which "
    "this also The In It A"
)
COMMON_TOKENS = (
    *(f" {word}" for word in _COMMON_WORDS),
    *(f" {mark}" for mark in (",", ".", ";", ":", "(", ")", "-", '"', "--")),
    *("...", ',"', '."', "'s", "'t", "the", "and", "of", "The", "In"),
)

_ONSETS = _words("b d f g h j k l m n p r s t v w z bl br ch cl cr dr fl fr gl gr kl pl pr sh sk sl sp st th tr")
_VOWELS = _words("a e i o u ai au ea ee oa ou")
_CODAS = ("", "", "", *_words("b d g k l m n p r s t nd nt rk st"))


@dataclass(frozen=True, kw_only=True)
class CategoryWord:
    """One word of a category with every token that spells it."""

    word: str  # the word as listed, without leading space
    surfaces: tuple[str, ...]  # token texts; the first is the word with a leading space
    token_ids: tuple[int, ...]  # ids of `surfaces`, in the same order


@dataclass(frozen=True, kw_only=True)
class Category:
    """A set of words that the target head treats as look-alikes."""

    name: str
    words: tuple[CategoryWord, ...]


@dataclass(frozen=True, kw_only=True)
class PlantedVocabulary:
    """Token texts by id, and the categories among them."""

    tokens: tuple[str, ...]  # byte-level spelling (GPT-2's printable alphabet), index = token id
    categories: tuple[Category, ...]
    bos_token_id: int

    def find(self, text: str) -> int | None:
        """The id of the token with exactly this text, all of it ASCII; None if there is none."""
        spelled = text.replace(" ", "\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}")
        return self.tokens.index(spelled) if spelled in self.tokens else None


def byte_alphabet() -> list[str]:
    """GPT-2's printable character of each byte 0..255.

    Returns:
        256 characters; the i-th stands for byte i (Radford et al. 2019, `bytes_to_unicode`).
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    shifted = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(shifted)) for byte in range(256)]


def _surfaces(word: str, rng: np.random.Generator) -> list[str]:
    """All forms a word may take, most wanted first: " red", published forms, then the others shuffled."""
    other = word.lower() if word != word.lower() else word.capitalize()
    forms = [word] if word.isdigit() else [word, f" {other}", other]
    rng.shuffle(forms)
    published = [form for form in forms if form in PUBLISHED_SURFACES]
    return [f" {word}", *published, *(form for form in forms if form not in published)]


def _choose_surfaces(words: list[str], rng: np.random.Generator) -> list[list[str]]:
    """Gives each word 1 to 3 forms, two a word on average, so that a top 10 fits inside the smallest category.

    Published words keep all their published forms, one of them four.
    """
    options = [_surfaces(word, rng) for word in words]
    least = [1 + sum(form in PUBLISHED_SURFACES for form in forms[1:]) for forms in options]
    most = [max(low, min(3, len(forms))) for low, forms in zip(least, options, strict=True)]
    counts = [int(rng.integers(low, high + 1)) for low, high in zip(least, most, strict=True)]
    while sum(counts) < 2 * len(words):
        index = int(rng.choice([i for i, count in enumerate(counts) if count < most[i]]))
        counts[index] += 1
    return [forms[:count] for forms, count in zip(options, counts, strict=True)]


def _pick(parts: tuple[str, ...], rng: np.random.Generator) -> str:
    return parts[int(rng.integers(len(parts)))]


def _background(count: int, taken: set[str], rng: np.random.Generator) -> list[str]:
    """Ordinary tokens: hostile ones, common words, then pronounceable pseudo-words with and without a space."""
    texts = [text for text in (*HOSTILE_TOKENS, *COMMON_TOKENS) if len(text.encode()) > 1 and text not in taken]
    words = {text.strip().lower() for text in taken}
    seen = set(texts)
    while len(texts) < count:
        syllables = [(_pick(_ONSETS, rng), _pick(_VOWELS, rng)) for _ in range(int(rng.integers(2, 4)))]
        word = "".join(onset + vowel for onset, vowel in syllables) + _pick(_CODAS, rng)
        text = word if rng.random() < 0.4 else f" {word}"
        if word not in words and text not in seen:
            texts.append(text)
            seen.add(text)
    assert len(texts) == count, "the smallest vocabulary holds every hostile and common token"
    return texts


def build_vocabulary(*, size: int, n_categories: int, rng: np.random.Generator) -> PlantedVocabulary:
    """Lays out a vocabulary: 256 bytes, then category and background tokens in seeded order, then end of text.

    Args:
        size: V, number of tokens.
        n_categories: how many rows of the category list to use, from the top.
        rng: seeded generator.

    Returns:
        The vocabulary; every category surface is one token.
    """
    alphabet = byte_alphabet()
    chosen = [(name, words, _choose_surfaces(words, rng)) for name, words in read_categories()[:n_categories]]
    surfaces = [form for _, _, forms in chosen for word_forms in forms for form in word_forms]
    assert len(set(surfaces)) == len(surfaces), "a surface form belongs to one word"
    # Every listed word is kept out of the background, also where this size leaves its category out.
    taken = {*surfaces, *(word for _, words in read_categories() for word in words)}
    texts = surfaces + _background(size - 257 - len(surfaces), taken, rng)
    order = rng.permutation(len(texts))
    texts = [texts[i] for i in order]
    ids = {text: 256 + i for i, text in enumerate(texts)}
    # GPT-2 numbers its single bytes in the order of their printable characters.
    spelled = ["".join(alphabet[byte] for byte in text.encode()) for text in texts]
    categories = tuple(
        Category(
            name=name,
            words=tuple(
                CategoryWord(word=word, surfaces=tuple(forms), token_ids=tuple(ids[form] for form in forms))
                for word, forms in zip(words, word_forms, strict=True)
            ),
        )
        for name, words, word_forms in chosen
    )
    return PlantedVocabulary(
        tokens=(*sorted(alphabet), *spelled, END_OF_TEXT), categories=categories, bos_token_id=size - 1
    )


def tokenizer_files(vocabulary: PlantedVocabulary, *, n_ctx: int) -> dict[str, str]:
    """Writes the vocabulary as a fast tokenizer that `AutoTokenizer.from_pretrained` loads offline.

    `ignore_merges` makes every piece that is a token encode to exactly that token; other text falls back to bytes.
    The generic fast class is named because transformers' GPT-2 class rebuilds the model without `ignore_merges`.

    Args:
        vocabulary: the tokens.
        n_ctx: longest prompt in tokens.

    Returns:
        File name -> text.
    """
    special = {
        "id": vocabulary.bos_token_id, "content": END_OF_TEXT, "single_word": False, "lstrip": False, "rstrip": False,
        "normalized": False, "special": True,
    }  # fmt: skip
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer: dict[str, object] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [special],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {token: index for index, token in enumerate(vocabulary.tokens)},
            "merges": [],
        },
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "unk_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "model_max_length": n_ctx,
    }
    return {
        "tokenizer.json": json.dumps(tokenizer, ensure_ascii=False),
        "tokenizer_config.json": json.dumps(config, indent=2),
    }
