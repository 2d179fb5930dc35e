"""A learned model in memory gives the tables of its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.gguf_files import real_model

import qkatlas as qk

pytestmark = pytest.mark.real


def test_smollm2_in_memory_gives_the_tables_of_its_gguf_file(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    file = real_model()
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    settings = {"head": "L1H7", "states": "mlp", "top_k": 8, "quiet": True, "in_process": True}
    wanted = qk.full_vocab(file, out=tmp_path / "file", **settings)
    found = qk.full_vocab(model, tokenizer=file, out=tmp_path / "memory", **settings)
    for table in ("topk", "self", "tokens"):
        assert found.table(table).equals(wanted.table(table))
    assert found.listed.weights_sha256 != wanted.listed.weights_sha256  # other bytes: the file's weights have 4 bits
    assert np.array_equal(found.topk(" red")["key_id"], wanted.topk(" red")["key_id"])
