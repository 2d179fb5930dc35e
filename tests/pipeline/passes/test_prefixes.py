"""Repeated prefixes in a text: their lengths against a count by hand, and attention against transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.checkpoints import reference

from qkatlas.jobs.inputs.resolve import write_planted
from qkatlas.pipeline.models.checkpoint import Checkpoint
from qkatlas.pipeline.models.forward import Forward
from qkatlas.pipeline.models.weights import ModelWeights
from qkatlas.pipeline.passes.prefixes import LEAST_ATTENTION, prefix_lengths, text_examples
from qkatlas.pipeline.planted.checkpoint import PlantedDesign


def by_hand(tokens: list[int], query: int, key: int) -> int:
    """How far the tokens up to the query agree with those before the key; the first token agrees with none."""
    length = 0
    while key - 1 - length > 0 and tokens[query - length] == tokens[key - 1 - length]:
        length += 1
    return length


def test_lengths_are_those_counted_by_hand() -> None:
    tokens = np.concatenate([[9], np.random.default_rng(0).integers(0, 3, 30)])
    lengths = prefix_lengths(tokens)
    for query in range(len(tokens)):
        for key in range(len(tokens)):
            expected = by_hand(tokens.tolist(), query, key) if 1 < key <= query else 0
            assert lengths[query, key] == expected, (query, key)
    assert lengths.max() > 3


@pytest.mark.slow
def test_examples_are_transformers_own_attention_before_and_after(tmp_path: Path) -> None:
    write_planted(PlantedDesign(size="tiny"), tmp_path / "model")
    weights = ModelWeights.read(Checkpoint.open(tmp_path / "model"), "test")
    rng = np.random.default_rng(1)
    block = rng.choice(np.arange(300, 900), 8, replace=False)
    window = np.concatenate([[1023], block, rng.choice(np.arange(300, 900), 3), block])
    alike = np.arange(1024)
    found = text_examples(Forward(weights), window[None], alike, np.arange(300, 900), seed=0, first=0)
    with torch.no_grad():
        out = reference(tmp_path / "model")(torch.from_numpy(window[None]), output_attentions=True)
    pattern = torch.stack(out.attentions)[:, 0].numpy()
    counted = 0
    for layer, head, query in np.ndindex(*pattern.shape[:3]):
        row = pattern[layer, head, query].copy()
        row[0] = 0
        if row.max() > LEAST_ATTENTION:
            counted += 1
            (place,) = np.flatnonzero((found.rows[:, 1:4] == (layer, head, query)).all(axis=1))
            assert found.rows[place, 4] == row.argmax()
            assert abs(found.before_X[place] - row.max()) < 1e-5
            assert found.rows[place, 5] == min(9, by_hand(window.tolist(), query, int(row.argmax())))
    assert counted == len(found.rows) > 20
    # The planted induction head asks for one token, and keeps its attention.
    own = (found.rows[:, 1] == 2) & (found.rows[:, 2] == 4) & (found.rows[:, 5] > 1)
    assert own.sum() >= 5
    assert np.abs(found.after_X[own] - found.before_X[own]).max() < 0.2
    assert np.isnan(found.after_X[found.rows[:, 5] < 2]).all()
