"""Tokenizers: names and ids as `AutoTokenizer` of the same directory gives them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast

from qkatlas.pipeline.text.passages import tokenise
from qkatlas.pipeline.text.tokenizer import UnreadableTokenizerError, read_names
from qkatlas.pipeline.text.vocabulary import Vocabulary
from tests.support import tokenizer_files as files
from tests.support.tokenizer_files import TEXTS, write

V = 1024
SIZE = files.byte_level().get_vocab_size()
ADDED = {"<mark>": SIZE, "<|note|>": SIZE + 1}
Make = Callable[[Path], Any]


def stored(tokenizer: Tokenizer) -> str:
    return tokenizer.to_str()


def with_flags() -> Tokenizer:
    return files.with_added(
        files.byte_level(),
        AddedToken("<mark>", lstrip=True, rstrip=True, special=True),
        AddedToken("<|note|>", single_word=True),
    )


def normalised() -> Tokenizer:
    tokenizer = with_flags()
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    return tokenizer


def without_decoder() -> str:
    layout = json.loads(files.byte_level().to_str())
    layout["decoder"] = None
    return json.dumps(layout)


GENERIC = {"tokenizer_class": "PreTrainedTokenizerFast"}
DECODER = {
    str(SIZE): {"content": "<mark>", "special": True, "lstrip": True},
    str(SIZE + 1): {"content": "<|note|>"},
}
BYTE_LEVEL: dict[str, Make] = {
    "tokenizer.json": lambda path: write(path, tokenizer__json=stored(files.byte_level())),
    "flags": lambda path: write(path, tokenizer__json=stored(with_flags())),
    "flags, generic": lambda path: write(path, tokenizer__json=stored(with_flags()), tokenizer_config__json=GENERIC),
    "normalizer": lambda path: write(path, tokenizer__json=stored(normalised())),
    "normalizer, generic": lambda path: write(
        path, tokenizer__json=stored(normalised()), tokenizer_config__json=GENERIC
    ),
    "no decoder": lambda path: write(path, tokenizer__json=without_decoder(), tokenizer_config__json=GENERIC),
    "two files": lambda path: write(path, **files.vocab_and_merges(files.byte_level())),
    "two files and added tokens": lambda path: write(
        path, **files.vocab_and_merges(files.byte_level()), added_tokens__json=ADDED
    ),
    "two files and added tokens with other ids": lambda path: write(
        path, **files.vocab_and_merges(files.byte_level()), added_tokens__json={"<mark>": 900, "<|note|>": 2}
    ),
    "two files, special in the map": lambda path: write(
        path,
        **files.vocab_and_merges(files.byte_level()),
        added_tokens__json=ADDED,
        special_tokens_map__json={"additional_special_tokens": ["<mark>", "<|note|>"], "pad_token": "red"},
    ),
    "special in the map": lambda path: write(
        path, tokenizer__json=stored(with_flags()), special_tokens_map__json={"sep_token": "<|note|>"}
    ),
    "special in the config": lambda path: write(
        path,
        tokenizer__json=stored(files.byte_level()),
        tokenizer_config__json={"pad_token": "the", "extra_special_tokens": ["<mark>"]},
    ),
    "added in the config": lambda path: write(
        path, **files.vocab_and_merges(files.byte_level()), tokenizer_config__json={"added_tokens_decoder": DECODER}
    ),
    "tokenizer.json and added in the config": lambda path: write(
        path, tokenizer__json=stored(files.byte_level()), tokenizer_config__json={"added_tokens_decoder": DECODER}
    ),
    "Llama 3": lambda path: write(
        path,
        config__json={"model_type": "llama"},
        tokenizer__json=stored(files.byte_level()),
        tokenizer_config__json={**GENERIC, "bos_token": "<|endoftext|>"},
    ),
    "Llama 3, LlamaTokenizer": lambda path: write(
        path,
        config__json={"model_type": "llama"},
        tokenizer__json=stored(files.byte_level()),
        tokenizer_config__json={"tokenizer_class": "LlamaTokenizer"},
    ),
    "Qwen 2": lambda path: write(
        path,
        config__json={"model_type": "qwen2"},
        tokenizer__json=stored(files.byte_level()),
        tokenizer_config__json={"tokenizer_class": "Qwen2Tokenizer", "pad_token": "<|endoftext|>"},
    ),
    "NeoX": lambda path: write(
        path,
        config__json={"model_type": "gpt_neox"},
        tokenizer__json=stored(files.byte_level()),
        tokenizer_config__json={"tokenizer_class": "GPTNeoXTokenizer"},
    ),
    "tokenizer.json and added tokens": lambda path: write(
        path, tokenizer__json=stored(files.byte_level()), added_tokens__json=ADDED
    ),
}


@pytest.mark.parametrize("kind", BYTE_LEVEL)
def test_byte_level_tokens_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    path = BYTE_LEVEL[kind](tmp_path / "model")
    reference = AutoTokenizer.from_pretrained(path)
    if kind == "no decoder":
        reference.backend_tokenizer.decoder = decoders.ByteLevel()
    vocabulary = Vocabulary.open(path, V)
    assert vocabulary.doubt is None
    named = {token_id for token_id, spelling in enumerate(vocabulary.spellings) if spelling is not None}
    assert named == set(reference.get_vocab().values())
    added = reference.added_tokens_decoder
    for token_id in named:
        expected = added[token_id].content if token_id in added else reference.decode([token_id])
        assert (vocabulary.spellings[token_id] or b"").decode(errors="replace") == expected
    control = {i for i, token in added.items() if token.special} | set(reference.all_special_ids)
    assert {i for i, special in enumerate(vocabulary.special) if special} == control
    assert not control & set(vocabulary.ordinary())
    for text in TEXTS:
        assert tokenise(path, text, V).tolist() == reference(text, add_special_tokens=False)["input_ids"]
        whole = b"".join(vocabulary.spellings[i] or b"" for i in tokenise(path, text, V))
        # What a token with lstrip or rstrip takes with it, and what a normalizer changes, is not in the tokens.
        if "flags" not in kind and "normal" not in kind and "config" not in kind and "special in" not in kind:
            assert whole == text.encode()


def generic(tokenizer: Tokenizer) -> Make:
    return lambda path: write(path, tokenizer__json=stored(tokenizer), tokenizer_config__json=GENERIC)


def bert(path: Path) -> Path:
    vocab = sorted(files.word_piece().get_vocab().items(), key=lambda entry: entry[1])
    write(path, vocab__txt="\n".join(token for token, _ in vocab) + "\n")
    return write(path, tokenizer_config__json={"tokenizer_class": "BertTokenizer"})


OTHERS: dict[str, tuple[Make, dict[str, bytes]]] = {
    "WordPiece": (generic(files.word_piece()), {"red": b"red", "##e": b"##e"}),
    "BERT": (bert, {"red": b"red", "##e": b"##e"}),
    "WordLevel": (generic(files.word_level()), {"red": b"red", "Zürich": "Zürich".encode()}),
    "Unigram": (generic(files.unigram()), {"▁red": b" red", "▁": b" ", "e": b"e"}),
    "byte fallback": (
        generic(files.byte_fallback()),
        {"▁red": b" red", "<0x0A>": b"\n", "<0xF0>": b"\xf0", "</s>": b"</s>", "ü": "ü".encode()},
    ),
}


LLAMA = {"model_type": "llama", "vocab_size": V, "hidden_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}


def sentence_piece(path: Path) -> Path:
    write(path, config__json=LLAMA, tokenizer_config__json={"tokenizer_class": "LlamaTokenizer"})
    files.sentence_piece(path)
    return path


OTHERS["SentencePiece"] = (
    sentence_piece,
    {"▁red": b" red", "<0x0A>": b"\n", "<0xFF>": b"\xff", "<s>": b"<s>", "<unk>": b"<unk>"},
)


@pytest.mark.parametrize("kind", OTHERS)
def test_other_tokenizers_are_spelled_by_their_own_decoding(kind: str, tmp_path: Path) -> None:
    make, known = OTHERS[kind]
    path = make(tmp_path / "model")
    reference = AutoTokenizer.from_pretrained(path)
    vocabulary = Vocabulary.open(path, V)
    assert vocabulary.doubt is None
    ids = reference.get_vocab()
    for token, expected in known.items():
        assert vocabulary.spellings[ids[token]] == expected
    for token, token_id in ids.items():
        text = (vocabulary.spellings[token_id] or b"").decode(errors="replace")
        assert text.strip() == reference.decode([token_id]).strip() or token in ("▁", "<unk>")
    assert {i for i, special in enumerate(vocabulary.special) if special} >= set(reference.all_special_ids)
    for text in TEXTS:
        assert tokenise(path, text, V).tolist() == reference(text, add_special_tokens=False)["input_ids"]
    if kind in ("Unigram", "byte fallback", "SentencePiece"):
        tokens = tokenise(path, "red the red", V)
        assert b"".join(vocabulary.spellings[i] or b"" for i in tokens) == b" red the red"


def test_a_class_that_the_file_was_not_made_for_is_said_and_the_file_says_what_tokens_mean(tmp_path: Path) -> None:
    path = write(tmp_path / "model", tokenizer__json=stored(files.word_level()))
    vocabulary = Vocabulary.open(path, V)
    assert vocabulary.find("Zürich") == files.word_level().token_to_id("Zürich")
    assert vocabulary.doubt is not None
    assert "GPT2Tokenizer; name its tokenizer_class" in vocabulary.doubt


def test_saved_tokenizers_are_read_without_a_doubt(tmp_path: Path) -> None:
    write(tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=files.unigram(), unk_token="<unk>").save_pretrained(tmp_path)
    assert Vocabulary.open(tmp_path, V).doubt is None
    write(tmp_path / "bert")
    BertTokenizer(vocab=files.word_piece().get_vocab()).save_pretrained(tmp_path / "bert")
    assert Vocabulary.open(tmp_path / "bert", V).doubt is None


@pytest.mark.slow
@pytest.mark.parametrize("form", ["tokenizer.json", "two files", "vocab.json"])
def test_of_two_tokens_with_one_id_the_same_wins_in_every_process(form: str, tmp_path: Path) -> None:
    layout = json.loads(files.byte_level().to_str())
    vocab = layout["model"]["vocab"]
    red, end = vocab["red"], vocab["<|endoftext|>"]
    for token in ("zz", "aa", "mm", "ab"):
        vocab[token] = red
    vocab["!!"] = end
    if form == "tokenizer.json":
        write(tmp_path, tokenizer__json=layout)
    else:
        write(tmp_path, **{**files.vocab_and_merges(files.byte_level()), "vocab__json": vocab})
    if form == "vocab.json":
        (tmp_path / "merges.txt").unlink()
    vocabulary = Vocabulary.open(tmp_path, V)
    assert vocabulary.spellings[red] == b"aa"
    assert vocabulary.spellings[end] == b"<|endoftext|>"
    command = (
        "import sys; from pathlib import Path; from qkatlas.pipeline.text.vocabulary import Vocabulary; "
        f"print(Vocabulary.open(Path(sys.argv[1]), {V}).sha256())"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", command, str(tmp_path)],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in (0, 1, 2)
    }
    assert hashes == {vocabulary.sha256()}


@pytest.mark.parametrize("bad", [1.5, -1, True, "7", None, [1]])
@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json", "added_tokens.json", "added in tokenizer.json"])
def test_ids_that_are_no_whole_numbers_are_refused(name: str, bad: Any, tmp_path: Path) -> None:
    write(tmp_path, **files.vocab_and_merges(files.byte_level()))
    layout = json.loads(files.byte_level().to_str())
    if name == "tokenizer.json":
        layout["model"]["vocab"]["zz"] = bad
        write(tmp_path, tokenizer__json=layout)
    elif name == "added in tokenizer.json":
        layout["added_tokens"][0]["id"] = bad
        write(tmp_path, tokenizer__json=layout)
    elif name == "vocab.json":
        write(tmp_path, vocab__json={**layout["model"]["vocab"], "zz": bad})
    else:
        write(tmp_path, added_tokens__json={"zz": bad})
    with pytest.raises(ValueError, match=r"ids are whole numbers of 0 or more; use") as refusal:
        Vocabulary.open(tmp_path, V)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "given",
    [
        {"tokenizer__json": "{"},
        {"tokenizer__json": "[" * 100_000},
        {"tokenizer__json": "[]"},
        {"tokenizer__json": {"version": "1.0"}},
        {"vocab__txt": "a\nb\n"},
        {"vocab__json": {"a": 0}, "merges__txt": "a b c d\n"},
        {"tokenizer__model": "no model"},
    ],
)
def test_a_tokenizer_that_cannot_be_read_costs_a_line_and_no_numbers(given: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, **given)
    vocabulary = Vocabulary.open(tmp_path, 7)
    assert vocabulary.texts() == [f"[{i}]" for i in range(7)]
    assert not vocabulary.has_tokenizer
    assert vocabulary.doubt is not None
    assert "cannot be read" in vocabulary.doubt
    assert "\n" not in vocabulary.doubt
    with pytest.raises(UnreadableTokenizerError, match="cannot be read"):
        tokenise(tmp_path, "red", 7)


def test_a_model_without_a_tokenizer_is_in_no_doubt(tmp_path: Path) -> None:
    assert read_names(write(tmp_path)) is None
    assert Vocabulary.open(tmp_path, 3).doubt is None


@pytest.mark.parametrize("kind", ["two files and added tokens", "tokenizer.json"])
def test_directories_without_a_model_type_are_gpt2s(kind: str, tmp_path: Path) -> None:
    path = BYTE_LEVEL[kind](tmp_path / "model")
    whole = Vocabulary.open(path, V)
    ids = tokenise(path, TEXTS[1], V).tolist()
    write(path, config__json={"architectures": ["GPT2LMHeadModel"]})
    assert Vocabulary.open(path, V) == whole
    assert tokenise(path, TEXTS[1], V).tolist() == ids
    (path / "config.json").unlink()
    assert Vocabulary.open(path, V) == whole
    assert tokenise(path, TEXTS[1], V).tolist() == ids
