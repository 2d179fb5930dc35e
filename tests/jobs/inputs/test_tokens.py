"""Tokens as the command line reads and prints them, for checkpoints with tokenizers of every kind."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from qkatlas.jobs.inputs.frequencies import Frequencies
from qkatlas.jobs.inputs.resolve import HUB_FILES
from qkatlas.jobs.main import run
from qkatlas.jobs.steering.group import GroupFile
from qkatlas.pipeline.text.categories import Categories
from qkatlas.pipeline.text.vocabulary import Vocabulary
from tests.support import tokenizer_files as files

Submit = Callable[..., tuple[int, str, str]]
GENERIC = {"tokenizer_class": "PreTrainedTokenizerFast"}
V = 340


@pytest.fixture
def submit(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Submit:
    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run([*map(str, arguments), "--in-process", "--out", str(tmp_path / "runs")])
        text = capfd.readouterr()
        return code, text.out, text.err

    return call


@pytest.fixture
def model(make_random_model: Callable[..., Path], tmp_path: Path) -> Path:
    source = make_random_model(3, vocab_size=V, n_layer=1, n_head=2, n_embd=16, bos_token_id=0, eos_token_id=0)
    return Path(shutil.copytree(source, tmp_path / "model"))


def put(model: Path, **contents: object) -> Path:
    config = json.loads((model / "config.json").read_text())
    return files.write(model, **{"config__json": config, **contents})


def test_a_text_with_special_and_added_tokens_has_the_tokens_of_transformers(
    submit: Submit, model: Path, tmp_path: Path
) -> None:
    size = files.byte_level().get_vocab_size()
    added = {"<mark>": size, "<|note|>": size + 1}
    put(model, **files.vocab_and_merges(files.byte_level()), added_tokens__json=added)
    text = tmp_path / "text.txt"
    text.write_text(" ".join(files.TEXTS) * 3, encoding="utf-8")
    words = tmp_path / "words.csv"
    words.write_text("red,_blue\n")
    given = ("--targets", "L0H0", "--layers", "0", "--prompts", "2", "--length", "8")
    code, _, error = submit("ablation", "--model", model, *given, "--categories", words, "--text", text, "--quiet")
    assert (code, error) == (0, "")
    expected = AutoTokenizer.from_pretrained(model)(text.read_text(encoding="utf-8"))["input_ids"]
    assert {0, size, size + 1} <= set(expected)
    (manifest,) = (tmp_path / "runs").glob("*/manifest.json")
    digest = hashlib.sha256(np.array(expected, np.int64).tobytes()).hexdigest()
    assert digest in manifest.read_text()


def test_special_tokens_of_other_files_are_marked_in_the_tables(submit: Submit, model: Path, tmp_path: Path) -> None:
    put(
        model,
        tokenizer__json=files.byte_level().to_str(),
        special_tokens_map__json={"pad_token": "red", "cls_token": {"content": "the"}},
        tokenizer_config__json={"sep_token": "cat"},
    )
    reference = AutoTokenizer.from_pretrained(model)
    code, _, error = submit("full-vocab", "--model", model, "--head", "L0H0", "--top-k", "4", "--quiet")
    assert (code, error) == (0, "")
    (table,) = (tmp_path / "runs").glob("*/tokens.parquet")
    rows = pq.read_table(table).sort_by("token_id").to_pylist()
    special = {row["token_id"] for row in rows if row["is_special"]}
    assert special == set(reference.all_special_ids)
    assert {reference.convert_tokens_to_ids(token) for token in ("red", "the", "cat")} <= special


def test_a_tokenizer_of_words_names_them_in_the_tables(submit: Submit, model: Path, tmp_path: Path) -> None:
    put(model, tokenizer__json=files.word_level().to_str(), tokenizer_config__json=GENERIC)
    code, _, said = submit("full-vocab", "--model", model, "--head", "L0H0", "--top-k", "4")
    assert code == 0
    assert "warning" not in said
    (table,) = (tmp_path / "runs").glob("*/tokens.parquet")
    rows = pq.read_table(table).sort_by("token_id").to_pylist()
    assert rows[files.word_level().token_to_id("red")]["text"] == "red"
    assert rows[V - 1]["text"] == f"[{V - 1}]"


def test_a_tokenizer_that_cannot_be_read_costs_one_line_and_only_words(
    submit: Submit, model: Path, tmp_path: Path
) -> None:
    put(model, tokenizer__json="{")
    code, _, said = submit("full-vocab", "--model", model, "--head", "L0H0", "--top-k", "4")
    assert code == 0
    (line,) = [line for line in said.splitlines() if "tokenizer" in line]
    assert line.startswith(f"warning: tokenizer of {model} cannot be read (tokenizer.json: ")
    assert line.endswith("tokenizer_class")
    (table,) = (tmp_path / "runs").glob("*/tokens.parquet")
    assert pq.read_table(table)["text"].to_pylist() == [f"[{i}]" for i in range(V)]
    code, _, error = submit("ablation", "--model", model, "--targets", "L0H0", "--layers", "0", "--quiet")
    assert code == 2
    assert error.startswith(f"submit: error: tokenizer of {model} cannot be read")
    assert "save_pretrained" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("bad", [{"zz": 1.5}, {"zz": -3}, {"zz": True}, {"zz": V}])
def test_ids_that_the_model_cannot_have_are_refused_in_one_line(submit: Submit, model: Path, bad: dict) -> None:
    vocab = files.vocab_and_merges(files.byte_level())
    put(model, **{**vocab, "vocab__json": {**vocab["vocab__json"], **bad}})
    code, printed, error = submit("full-vocab", "--model", model, "--head", "L0H0")
    assert (code, printed) == (2, "")
    assert error.startswith("submit: error: ")
    assert error.count("\n") == 1
    assert "use the tokenizer the model was trained with" in error


def test_a_group_and_categories_name_tokens_in_every_spelling(planted_tiny: Path, tmp_path: Path) -> None:
    vocabulary = Vocabulary.open(planted_tiny, 1024)
    red, cat = vocabulary.find(" red"), vocabulary.find(" cat")
    assert red is not None
    assert cat is not None
    file = tmp_path / "group.txt"
    for name in (" red", "red", "_red", "·red", "Ġred", "▁red", "' red'", f"#{red}"):
        file.write_text(f"{name}\n_cat\nno such token\n", encoding="utf-8")
        group = GroupFile.read(file).texts(vocabulary)
        assert group == (" red", " cat")
        assert [vocabulary.look_up(text) for text in group] == [red, cat]
        assert Categories.fit([[name, "cat"]], vocabulary).token_ids == ((red, cat),)
    byte = vocabulary.spellings.index(b"\xff")
    file.write_text(f"#{byte}\n")
    (group,) = GroupFile.read(file).texts(vocabulary)
    assert vocabulary.look_up(group) == byte


def test_frequencies_may_write_spaces_as_they_like(tmp_path: Path) -> None:
    file = tmp_path / "frequencies.csv"
    file.write_text("token,id,count\n_a,0,3\n·b,1,2\nĠc,2,1\n▁d,3,1\n e,4,1\n", encoding="utf-8")
    assert Frequencies.read(file).mismatch([" a", " b", " c", " d", " e"]) is None
    assert str(Frequencies.read(file).mismatch(["a", "b", "c", "d", "e"])).startswith("5 of 5")


def test_the_hub_is_asked_for_every_file_that_says_what_tokens_are() -> None:
    assert {
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "tokenizer.model",
        "spiece.model",
        "vocab.txt",
    } <= set(HUB_FILES)
    assert not [name for name in HUB_FILES if name.endswith((".py", ".bin", ".pkl", ".jinja"))]
