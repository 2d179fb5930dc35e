"""Vocabularies of GGUF files, written by the `gguf` package and read by `AutoTokenizer` for comparison."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter, TokenType
from transformers import AutoTokenizer

from qkatlas.pipeline.text.categories import Categories
from qkatlas.pipeline.text.passages import tokenise
from qkatlas.pipeline.text.tokenizer import UnreadableTokenizerError
from qkatlas.pipeline.text.vocabulary import Vocabulary
from qkatlas.pipeline.text.word_tokens import token_categories
from tests.support import tokenizer_files as files


def write(path: Path, kind: str, tokens: list[str], types: list[int] | None, **more: Any) -> Path:
    """A Llama-type GGUF with a vocabulary and no weights worth the name."""
    writer = GGUFWriter(path, "llama")
    for name, value in (("block_count", 1), ("context_length", 64), ("embedding_length", 8)):
        writer.add_uint32(f"llama.{name}", value)
    writer.add_uint32("llama.feed_forward_length", 16)
    writer.add_uint32("llama.attention.head_count", 1)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_array("general.languages", ["en", "de"])
    writer.add_array("some.numbers", [1, 2, 3])
    writer.add_tokenizer_model(kind)
    writer.add_token_list(tokens)
    if types is not None:
        writer.add_token_types(types)
    if "merges" in more:
        writer.add_token_merges(more["merges"])
    if "scores" in more:
        writer.add_token_scores(more["scores"])
    for name in ("bos", "eos", "unk", "pad"):
        if name in more:
            getattr(writer, f"add_{name}_token_id")(more[name])
    writer.add_tensor("token_embd.weight", np.zeros((len(tokens), 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def byte_level(path: Path) -> Path:
    layout = files.vocab_and_merges(files.byte_level())
    tokens = [*sorted(layout["vocab__json"], key=layout["vocab__json"].get), "<|im_start|>", "<think>"]
    kinds = {"<|endoftext|>": TokenType.CONTROL, "<|im_start|>": TokenType.CONTROL, "<think>": TokenType.USER_DEFINED}
    types = [int(kinds.get(token, TokenType.NORMAL)) for token in tokens]
    merges = layout["merges__txt"].splitlines()[1:]
    return write(path, "gpt2", tokens, types, merges=merges, bos=len(tokens) - 2, eos=0, unk=0)


def pieces(path: Path) -> Path:
    model = json.loads(files.byte_fallback().to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    kinds = {"<unk>": TokenType.UNKNOWN, "<s>": TokenType.CONTROL, "</s>": TokenType.CONTROL}
    types = [int(TokenType.BYTE if token.startswith("<0x") else kinds.get(token, TokenType.NORMAL)) for token in tokens]
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in model["merges"]]
    scores = [-float(place) for place in range(len(tokens))]
    return write(path, "llama", tokens, types, merges=merges, scores=scores, bos=1, eos=2, unk=0)


@pytest.mark.parametrize("make", [byte_level, pieces])
def test_names_and_ids_are_those_of_transformers(make: Any, tmp_path: Path) -> None:
    file = make(tmp_path / "model.gguf")
    reference = AutoTokenizer.from_pretrained(tmp_path, gguf_file=file.name)
    size = len(reference)
    vocabulary = Vocabulary.open(file, size)
    assert vocabulary.doubt is None
    control = {i for i, token in reference.added_tokens_decoder.items() if token.special}
    assert {i for i, special in enumerate(vocabulary.special) if special} == control | set(reference.all_special_ids)
    for token_id in range(size):
        decoded = reference.decode([token_id])
        text = (vocabulary.spellings[token_id] or b"").decode(errors="replace")
        # A decoder of pieces cuts the space that begins a text.
        assert text == decoded or (make is pieces and text == f" {decoded}")
    for text in ("the red cat", " red  blue<|im_start|>Zürich 東京\n", "<think>note 1989</s>the"):
        ids = tokenise(file, text, size)
        assert ids.tolist() == reference(text, add_special_tokens=False)["input_ids"]
        whole = b"".join(vocabulary.spellings[i] or b"" for i in ids)
        assert whole.decode() == (text if make is byte_level or text[0] == " " else f" {text}")


def test_pieces_have_their_exact_bytes(tmp_path: Path) -> None:
    vocabulary = Vocabulary.open(pieces(tmp_path / "model.gguf"), 400)
    assert {i: vocabulary.spellings[i] for i in (0, 1, 3, 13, 258)} == {
        0: b"<unk>", 1: b"<s>", 3: b"\x00", 13: b"\n", 258: b"\xff",
    }  # fmt: skip
    assert {b" red", b" the", b"  ", "ü".encode()} <= set(vocabulary.spellings)
    assert vocabulary.find_word("red") == vocabulary.find(" red") is not None
    assert vocabulary.spellings[399] is None


def test_control_and_user_defined_tokens_are_their_own_text(tmp_path: Path) -> None:
    tokens = ["<é>", "é", "<▁x>", "▁x"]
    types = [int(TokenType.CONTROL), int(TokenType.NORMAL), int(TokenType.USER_DEFINED), int(TokenType.NORMAL)]
    vocabulary = Vocabulary.open(write(tmp_path / "a.gguf", "gpt2", tokens, types, merges=["a b"]), 4)
    assert vocabulary.spellings[:2] == ("<é>".encode(), b"\xe9")
    vocabulary = Vocabulary.open(write(tmp_path / "b.gguf", "llama", tokens, types), 4)
    assert vocabulary.spellings[2:] == ("<▁x>".encode(), b" x")
    assert vocabulary.special == (True, False, False, False)


def test_words_of_a_model_that_splits_digits_are_those_it_has(tmp_path: Path) -> None:
    tokens = ["<|endoftext|>", *"0123456789", "Ġ", "Ġred", "blue", "Ġgreen", "Ġcat"]
    file = write(tmp_path / "model.gguf", "gpt2", tokens, None, merges=["Ġ r"], eos=0)
    vocabulary = Vocabulary.open(file, len(tokens))
    fitted = Categories.fit([["69", "1989", "42"], ["red", "blue", "green", "pink"], ["cat", "dog"]], vocabulary)
    assert fitted.token_ids == ((12, 13, 14),)
    assert fitted.dropped == ("69", "1989", "42", "pink", "cat", "dog")
    (colours,) = token_categories(vocabulary)
    assert colours.token_ids.tolist() == [12, 13, 14]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GGU",
        b"PK\x03\x04" * 9,
        b"GGUF" + struct.pack("<I", 1),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**63),
        b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"k", 99),
        b"GGUF" + struct.pack("<IQQQ1s", 3, 0, 1, 1, b"k") + struct.pack("<IIQ", 9, 0, 2**62),
        b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"k", 9) + struct.pack("<IQ", 9, 1) * 3000,
    ],
)
def test_damaged_files_cost_a_line(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    vocabulary = Vocabulary.open(file, 5)
    assert vocabulary.texts() == [f"[{i}]" for i in range(5)]
    assert vocabulary.doubt is not None
    assert "cannot be read" in vocabulary.doubt
    with pytest.raises(UnreadableTokenizerError, match="cannot be read"):
        tokenise(file, "red", 5)


def test_a_file_cut_in_its_vocabulary_costs_a_line(tmp_path: Path) -> None:
    file = byte_level(tmp_path / "model.gguf")
    whole = file.read_bytes()
    for size in (30, 200, 700, 2000):
        file.write_bytes(whole[:size])
        doubt = Vocabulary.open(file, 5).doubt
        assert doubt is not None
        assert "\n" not in doubt


def test_unknown_kinds_cost_a_line_and_files_without_tokens_have_none(tmp_path: Path) -> None:
    vocabulary = Vocabulary.open(write(tmp_path / "a.gguf", "rwkv", ["a"], None), 1)
    assert vocabulary.text(0) == "[0]"
    assert "'rwkv' is not among gpt2, llama" in str(vocabulary.doubt)
    writer = GGUFWriter(tmp_path / "b.gguf", "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    vocabulary = Vocabulary.open(tmp_path / "b.gguf", 1)
    assert (vocabulary.has_tokenizer, vocabulary.doubt) == (False, None)


def test_more_tokens_than_rows_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "model.gguf", "gpt2", ["a", "b", "c"], [1, 1, 1], merges=["a b"])
    with pytest.raises(ValueError, match="token id 2, but the model has 2 tokens"):
        Vocabulary.open(file, 2)
