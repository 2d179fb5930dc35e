"""The calibration text that comes with the package, cut into windows: natural contexts to read a token behind.

Shapes: W windows, T tokens of a window.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qkatlas.pipeline.text.tokenizer import encode_each

LENGTH = 8
"""Tokens of a window; 16 and 32 gave states no better."""


def passages() -> list[str]:
    """The passages of the text: prose, dialogue, lists and code of this project's own."""
    text = (resources.files("qkatlas.pipeline.text") / "data" / "calibration.txt").read_text(encoding="utf-8")
    return text.strip().split("\n\n")


def calibration_windows(path: Path, vocab_size: int, count: int) -> npt.NDArray[np.int64]:
    """Windows of the calibration text, spread evenly over it, no two of them the same and none across two passages.

    Args:
        path: the checkpoint directory, or a GGUF file, whose own tokenizer reads the text.
        vocab_size: rows of the embedding, V.
        count: windows, W.

    Returns:
        int64 [W, T].

    Raises:
        ValueError: if the model has no tokenizer that can be read, or it makes fewer windows of the text, or tokens
            that have no embedding.
    """
    ids = encode_each(path, passages(), option="--states context", remedy="choose --states prefix or mlp")
    starts = ((passage, start) for passage in ids for start in range(len(passage) - LENGTH + 1))
    found = list(dict.fromkeys(tuple(passage[start : start + LENGTH]) for passage, start in starts))
    if len(found) < count:
        raise ValueError(
            f"--windows {count} are more than the {len(found)} that this model's tokenizer makes of the calibration "
            f"text; choose {len(found)} or fewer"
            if found
            else "the model's tokenizer makes no window of the calibration text; choose --states prefix or mlp"
        )
    windows_WT = np.array([found[number * len(found) // count] for number in range(count)], np.int64)
    if windows_WT.max() >= vocab_size:
        raise ValueError(
            f"the calibration text gives token id {windows_WT.max()}, past the model's {vocab_size}; "
            "use its own tokenizer"
        )
    return windows_WT
