"""The text that jobs cut into windows: its tokens, how long a window may be, and what identifies windows.

Shapes: N tokens, B windows, T positions.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from qkatlas.jobs.inputs.model import Model
from qkatlas.pipeline.text.calibration import passages
from qkatlas.pipeline.text.passages import tokenise

SHORTEST = 8
"""Positions of a window at least."""


def tokens_of(text: str | None, model: Model) -> npt.NDArray[np.int64]:
    """The tokens of a text, int64 [N].

    Args:
        text: the content of `--text`; None = the calibration text.
        model: whose tokenizer reads it.

    Raises:
        ValueError: if the model has no tokenizer.
    """
    read = text if text is not None else "\n\n".join(passages())
    return tokenise(model.checkpoint.path, read, model.checkpoint.architecture.vocab_size)


def name_of(text: str | None) -> str:
    """What messages call a text; see `tokens_of`."""
    return "calibration text" if text is None else "--text"


def require_positions(asked: int | None, n_ctx: int) -> None:
    """Check that a model reads a window.

    Args:
        asked: `--length`; None = as fits.
        n_ctx: positions that the model reads.

    Raises:
        ValueError: if it reads fewer.
    """
    if n_ctx < (asked or SHORTEST):
        raise ValueError(
            f"--length {asked or SHORTEST} is more than the {n_ctx} positions that the model reads; choose {n_ctx} or "
            f"fewer, {SHORTEST} at least"
        )


def digest_of_windows(tokens_BT: npt.NDArray[np.int64]) -> str:
    """SHA-256 of the tokens of windows, the same on every machine; int64 [B, T]."""
    return hashlib.sha256(np.ascontiguousarray(tokens_BT, "<i8").tobytes()).hexdigest()
