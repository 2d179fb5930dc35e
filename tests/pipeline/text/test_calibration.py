"""The calibration text and its windows."""

from __future__ import annotations

from pathlib import Path

import pytest

from qkatlas.pipeline.text.calibration import LENGTH, calibration_windows, passages
from qkatlas.pipeline.text.tokenizer import encode


def test_windows_are_different_pieces_of_single_passages(planted_tiny: Path) -> None:
    windows_WT = calibration_windows(planted_tiny, 1024, 300)
    assert windows_WT.shape == (300, LENGTH)
    assert len({tuple(window) for window in windows_WT.tolist()}) == 300
    whole = [encode(planted_tiny, passage) for passage in passages()[:4]]
    pieces = [tuple(ids[start : start + LENGTH]) for ids in whole for start in range(len(ids) - LENGTH + 1)]
    first = [tuple(window) for window in windows_WT.tolist()[:5]]
    places = [pieces.index(window) for window in first]
    assert places[0] == 0
    assert places == sorted(places)
    last = encode(planted_tiny, passages()[-1])
    assert set(windows_WT[-1].tolist()) <= set(last)  # they reach from the first passage to the last


def test_the_text_is_varied_and_long_enough() -> None:
    text = passages()
    assert len(text) >= 40
    assert all(len(passage) > 40 for passage in text)
    assert len(set(text)) == len(text)
    assert sum(len(passage.split()) for passage in text) > 1800


def test_what_gives_no_windows_is_refused_in_one_line(planted_tiny: Path, random_model: Path) -> None:
    with pytest.raises(ValueError, match=r"--windows 90000 are more than the \d+ .* choose \d+ or fewer"):
        calibration_windows(planted_tiny, 1024, 90000)
    with pytest.raises(ValueError, match=r"--states context needs a tokenizer, and .* choose --states prefix or mlp"):
        calibration_windows(random_model, 211, 10)
    with pytest.raises(ValueError, match="past the model's 5; use its own tokenizer"):
        calibration_windows(planted_tiny, 5, 10)
