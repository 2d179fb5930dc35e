"""The text of a features run, in windows.

Shapes: W windows, T positions.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qkatlas.jobs.features.spec import LONGEST, WINDOWS, Features
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.windows import SHORTEST, name_of, require_positions, tokens_of


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
    tokens = tokens_of(spec.text, model)
    length = length_of(spec.length, a.n_ctx, len(tokens) + 1)
    named = name_of(spec.text)
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
    require_positions(asked, n_ctx)
    return asked or max(SHORTEST, min(n_ctx, LONGEST, of_text or LONGEST))
