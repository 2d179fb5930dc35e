"""Passages: windows of a text, partners, and the checkpoint's own tokenizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from qkatlas.pipeline.text.passages import Passages, tokenise


def test_partners_are_other_passages_in_one_cycle() -> None:
    passages = Passages.of_text(np.arange(36), bos=99, length=4).with_partners(7)
    rows = {row.tobytes(): place for place, row in enumerate(passages.tokens_PT)}
    partner = [rows[row.tobytes()] for row in passages.partners_PT]
    seen, place = [], 0
    for _ in range(9):
        place = partner[place]
        seen.append(place)
    assert sorted(seen) == list(range(9))
    with pytest.raises(ValueError, match="resample needs two"):
        passages[0:1].with_partners(7)


@pytest.mark.parametrize("tokens", [1, 3, 4, 5, 8, 11])
def test_every_token_of_a_text_is_predicted_once(tokens: int) -> None:
    text_W = np.arange(100, 100 + tokens)
    passages = Passages.of_text(text_W, bos=0, length=4)
    assert (passages.tokens_PT[:, 0] == 0).all()
    assert passages.tokens_PT[passages.predicted_PT].tolist() == text_W.tolist()
    assert passages.tokens_PT.shape == (-(-tokens // 4), 1 + min(tokens, 4))
    for row in passages.tokens_PT:
        assert (np.diff(row[1:]) == 1).all()


def test_a_text_is_tokenised_as_transformers_does(worded_model: Path, tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    text = "Monday red cat\n<|endoftext|> blüe"
    expected = PreTrainedTokenizerFast(tokenizer_file=str(worded_model / "tokenizer.json"))(text)["input_ids"]
    assert tokenise(worded_model, text, 1024).tolist() == expected
    with pytest.raises(ValueError, match="no token"):
        tokenise(worded_model, "", 1024)
    with pytest.raises(ValueError, match="past the model's 5"):
        tokenise(worded_model, text, 5)
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        tokenise(tmp_path, text, 1024)


def test_what_a_tokenizer_stores_for_inputs_does_not_cut_or_fill_a_text(worded_model: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(worded_model / "tokenizer.json"))
    expected = tokenizer.encode(" red blue" * 20, add_special_tokens=False).ids
    tokenizer.enable_truncation(10)
    tokenizer.enable_padding(length=200)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert tokenise(tmp_path, " red blue" * 20, 1024).tolist() == expected
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot be read"):
        tokenise(tmp_path, "red", 1024)
