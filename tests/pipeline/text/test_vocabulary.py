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
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        Vocabulary.open(tmp_path, 1024)
    word_level = {"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(word_level))
    with pytest.raises(ValueError, match="not byte-level"):
        Vocabulary.open(tmp_path, 1024)


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
