"""The text of a features run, in windows.

Shapes: W windows, T positions.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qkatlas.jobs.features.spec import LONGEST, WINDOWS, Features
from qkatlas.jobs.inputs.model import Model
from qkatlas.pipeline.text.calibration import passages
from qkatlas.pipeline.text.passages import tokenise

SHORTEST = 8
"""Positions of a window at least."""


def text_windows(spec: Features, model: Model) -> npt.NDArray[np.int64]:
    """Windows of the text, each behind BOS, evenly spread over it and none over another.

    Args:
        spec: what is asked for.
        model: the model, whose tokenizer reads the text.

    Returns:
        int64 [W, T].

    Raises:
        ValueError: if the model has no BOS or no tokenizer, or model or text has no such windows.
    """
    a = model.checkpoint.architecture
    bos = a.require_bos()
    text = spec.text if spec.text is not None else "\n\n".join(passages())
    tokens = tokenise(model.checkpoint.path, text, a.vocab_size)
    length = length_of(spec.length, a.n_ctx, len(tokens) + 1)
    named = "calibration text" if spec.text is None else "--text"
    if len(tokens) < length - 1:
        raise ValueError(
            f"a window of {length} positions needs {length - 1} tokens of text, and the {named} has {len(tokens)}; "
            "give --text a longer file"
        )
    there = len(tokens) // (length - 1)
    count = min(spec.windows or WINDOWS, there)
    if spec.windows is not None and spec.windows > there:
        raise ValueError(
            f"--windows {spec.windows} of {length} positions are more than the {there} that the {named} has; choose "
            f"{there} or fewer, or give --text a longer file"
        )
    start_W = np.arange(count) * there // count * (length - 1)
    found = np.full((count, length), bos, np.int64)
    found[:, 1:] = tokens[start_W[:, None] + np.arange(length - 1)]
    return found


def length_of(asked: int | None, n_ctx: int, of_text: int | None = None) -> int:
    """Positions of a window.

    Args:
        asked: `--length`.
        n_ctx: positions that the model reads.
        of_text: positions of the longest window that the text has; None = it is long enough.

    Raises:
        ValueError: if the model reads fewer.
    """
    if n_ctx < (asked or SHORTEST):
        raise ValueError(
            f"--length {asked or SHORTEST} is more than the {n_ctx} positions that the model reads; choose {n_ctx} or "
            f"fewer, {SHORTEST} at least"
        )
    return asked or max(SHORTEST, min(n_ctx, LONGEST, of_text or LONGEST))
