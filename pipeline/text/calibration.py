"""The calibration text that comes with the package, cut into windows: natural contexts to read a token behind.

Shapes: W windows, T tokens of a window.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qkatlas.pipeline.text.tokenizer import encode_each

LENGTH = 8
"""Tokens of a window; 16 and 32 gave states no better."""

_BLANK_LINES = re.compile(r"\n[ \t\r]*\n")


def passages(text: str | None = None) -> list[str]:
    """The passages of a text, which blank lines set apart.

    Args:
        text: a user's own; None = the calibration text: prose, dialogue, lists and code of this project's own.
    """
    if text is None:
        text = (resources.files("qkatlas.pipeline.text") / "data" / "calibration.txt").read_text(encoding="utf-8")
    return [passage for passage in _BLANK_LINES.split(text.strip("\n")) if passage.strip()]


def read_passages(path: Path, vocab_size: int, text: str | None = None) -> list[list[int]]:
    """Token ids of each passage, as the model's own tokenizer reads it.

    Args:
        path: the checkpoint directory, or a GGUF file.
        vocab_size: rows of the embedding, V.
        text: a user's own; None = the calibration text.

    Raises:
        ValueError: if the model has no tokenizer that can be read, or it gives tokens that have no embedding.
    """
    ids = encode_each(path, passages(text), option="--states context", remedy="choose --states prefix or mlp")
    largest = max((max(passage) for passage in ids if passage), default=0)
    if largest >= vocab_size:
        raise ValueError(
            f"the calibration text gives token id {largest}, past the model's {vocab_size}; use its own tokenizer"
        )
    return ids


def different_windows(ids: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """All windows of some passages, none twice and none across two passages."""
    starts = ((passage, start) for passage in ids for start in range(len(passage) - LENGTH + 1))
    return list(dict.fromkeys(tuple(passage[start : start + LENGTH]) for passage, start in starts))


def spread(windows: Sequence[tuple[int, ...]], count: int) -> npt.NDArray[np.int64]:
    """Some of the windows, evenly from the first to the last.

    Args:
        windows: at least as many as are wanted.
        count: windows, W.

    Returns:
        int64 [W, T].
    """
    return np.array([windows[number * len(windows) // count] for number in range(count)], np.int64)


def calibration_windows(path: Path, vocab_size: int, count: int, *, text: str | None = None) -> npt.NDArray[np.int64]:
    """Windows of the calibration text or another, spread evenly over it, all different, none across two passages.

    Args:
        path: the checkpoint directory, or a GGUF file, whose own tokenizer reads the text.
        vocab_size: rows of the embedding, V.
        count: windows, W.
        text: a user's own; None = the calibration text.

    Returns:
        int64 [W, T].

    Raises:
        ValueError: if the model has no tokenizer that can be read, or it makes fewer windows of the text, or tokens
            that have no embedding.
    """
    found = different_windows(read_passages(path, vocab_size, text))
    named = "calibration text" if text is None else "--text"
    if len(found) < count:
        raise ValueError(
            f"--windows {count} are more than the {len(found)} that this model's tokenizer makes of the {named}; "
            f"choose {len(found)} or fewer"
            if found
            else f"the model's tokenizer makes no window of {LENGTH} tokens of the {named}; choose --states prefix or "
            "mlp" + ("" if text is None else ", or a longer text")
        )
    return spread(found, count)
