"""Vocabularies: exact bytes, harmless texts."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from qkatlas.pipeline.text.vocabulary import Vocabulary, printable


def test_bytes_join_to_the_bytes_of_any_text(planted_tiny: Path) -> None:
    vocabulary = Vocabulary.open(planted_tiny, 1024)
    tokenizer = AutoTokenizer.from_pretrained(planted_tiny)
    for text in (" red cat", "naïve 東京 \x00\n\t", "</script> 🙂", "Monday1989"):
        ids = tokenizer.encode(text)
        assert b"".join(vocabulary.spellings[i] or b"?" for i in ids) == text.encode()
    assert {s for s in vocabulary.spellings if s is not None and len(s) == 1} == {bytes([b]) for b in range(256)}


def test_special_tokens_are_marked_and_not_found_as_words(planted_tiny: Path) -> None:
    vocabulary = Vocabulary.open(planted_tiny, 1024)
    assert vocabulary.special.count(True) == 1
    assert vocabulary.spellings[vocabulary.special.index(True)] == b"<|endoftext|>"
    assert vocabulary.find("<|endoftext|>") is None
    red = vocabulary.find(" red")
    assert red is not None
    assert vocabulary.text(red) == " red"


def test_a_model_without_tokenizer_goes_on_without_texts(random_model: Path) -> None:
    vocabulary = Vocabulary.open(random_model, 211)
    assert not vocabulary.has_tokenizer
    assert vocabulary.spellings == (None,) * 211
    assert vocabulary.text(17) == "[17]"
    assert vocabulary.find(" red") is None


def test_vocab_json_alone_is_read_like_the_whole_tokenizer(planted_tiny: Path, tmp_path: Path) -> None:
    whole = Vocabulary.open(planted_tiny, 1024)
    ids = json.loads((planted_tiny / "tokenizer.json").read_text())["model"]["vocab"]
    (tmp_path / "vocab.json").write_text(json.dumps({**ids, "<|endoftext|>": 1023}))
    alone = Vocabulary.open(tmp_path, 1024)
    assert alone == whole
    assert alone.sha256() == whole.sha256()


def test_padding_rows_have_no_spelling_and_foreign_tokenizers_are_refused(planted_tiny: Path, tmp_path: Path) -> None:
    padded = Vocabulary.open(planted_tiny, 1030)
    assert padded.spellings[1024:] == (None,) * 6
    assert padded.sha256() != Vocabulary.open(planted_tiny, 1024).sha256()
    with pytest.raises(ValueError, match="token id 1022, but the model has 1000"):
        Vocabulary.open(planted_tiny, 1000)


def test_a_token_is_found_by_every_spelling_of_its_space(planted_tiny: Path) -> None:
    vocabulary = Vocabulary.open(planted_tiny, 1024)
    spaced, bare = vocabulary.find(" red"), vocabulary.find("red")
    assert spaced is not None
    assert vocabulary.shown(spaced) == "·red"
    for name in (" red", "_red", "·red", "Ġred", "▁red", "' red'", f"#{spaced}"):
        assert vocabulary.look_up(name) == spaced
        assert vocabulary.find_word(name) == spaced
    assert vocabulary.look_up("red") == bare
    assert vocabulary.find_word("red") == spaced
    assert vocabulary.look_up("#1024") is None
    assert vocabulary.look_up("_no such token") is None
    for token_id in vocabulary.ordinary():
        named = vocabulary.look_up(vocabulary.shown(token_id))
        assert named is not None
        assert vocabulary.shown(named) == vocabulary.shown(token_id) or vocabulary.text(named).startswith("#")


def test_tokens_that_begin_with_a_mark_stay_apart_from_those_with_a_space() -> None:
    texts = (" red", "_red", "·red", " ·red", "  red", "__red", "·", " ", "Ġred", "#2", "'a'", "a", "_x", " y")
    vocabulary = Vocabulary(tuple(text.encode() for text in texts), (False,) * len(texts), True)
    shown = [vocabulary.shown(token_id) for token_id in range(len(texts))]
    assert len(set(shown)) == len(texts)
    assert shown[:4] == ["·red", "_red", r"\u00b7red", r"·\u00b7red"]
    for token_id, text in enumerate(texts):
        if text[0] not in "·#":  # what is written so is a space or an id first
            assert vocabulary.look_up(text) == token_id
        if text != "#2":
            assert vocabulary.look_up(shown[token_id]) == token_id
    assert vocabulary.look_up("#2") == 2
    assert vocabulary.look_up("·red") == 0
    assert vocabulary.look_up("__red") == 5
    assert vocabulary.look_up("··red") == 4
    assert vocabulary.look_up("_y") == 13
    assert vocabulary.find_word("x") is None
    assert Vocabulary((b"a", b" b"), (False, False), True).find_word("a") == 0


@given(st.binary(max_size=12) | st.text(max_size=8).map(lambda text: text.encode("utf-8", "replace")))
def test_printable_text_holds_nothing_that_acts(spelling: bytes) -> None:
    text = printable(spelling)
    assert all(c == " " or unicodedata.category(c)[0] not in "CZ" for c in text)
    if spelling.decode("utf-8", "replace").isalnum() and "\ufffd" not in spelling.decode("utf-8", "replace"):
        assert text.encode() == spelling


def test_printable_escapes() -> None:
    assert printable(b" red") == " red"
    assert printable(b"\n\t") == "\\n\\t"
    assert printable(b"\xff\x80") == "\\xff\\x80"
    assert printable("\u202eabc".encode()) == "\\u202eabc"
    assert printable(b"</script>") == "</script>"
