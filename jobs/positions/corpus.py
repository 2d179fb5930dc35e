"""The text of a positions run: its tokens, how long its windows are, and which token stands for all queries."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qkatlas.jobs.inputs.frequencies import Frequencies
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.windows import SHORTEST, name_of, require_positions, tokens_of
from qkatlas.jobs.inputs.words import token_of
from qkatlas.jobs.positions.spec import LONGEST, LONGEST_ROTARY, MEAN, Positions, windows_of
from qkatlas.pipeline.models.architecture import Architecture
from qkatlas.pipeline.text.thirds import longest_window, windows_of_thirds


def text_windows(spec: Positions, model: Model, *, most: int = LONGEST) -> npt.NDArray[np.int64]:
    """Windows of the text: two thirds to take means from, then one to compare with.

    Args:
        spec: what is asked for.
        model: the model, whose tokenizer reads the text.
        most: positions of a window where the spec says nothing, if model and text have as many.

    Returns:
        int64 [3 B, T].

    Raises:
        ValueError: if the model has no BOS or no tokenizer, or model or text has no such windows.
    """
    a = model.checkpoint.architecture
    bos = a.require_bos()
    tokens_W = tokens_of(spec.text, model)
    longest = longest_window(len(tokens_W))
    named = name_of(spec.text)
    if longest < (spec.length or SHORTEST):
        wanted = spec.length or SHORTEST
        fewer = f"choose {longest} or fewer, or " if longest >= SHORTEST else ""
        raise ValueError(
            f"windows of {wanted} positions need {3 * (wanted - 1)} tokens of text, a third each, and the {named} has "
            f"{len(tokens_W)}; {fewer}give --text a longer file"
        )
    length = fitted_length(spec.length, a, min(longest, most))
    return windows_of_thirds(tokens_W, bos=bos, length=length, count=windows_of(spec.windows, length)).reshape(
        -1, length
    )


def fitted_length(asked: int | None, a: Architecture, of_text: int | None = None) -> int:
    """Positions of a window.

    Args:
        asked: `--length`.
        a: of the model.
        of_text: positions of the longest window that the text has; None = it is long enough.

    Raises:
        ValueError: if the model reads fewer.
    """
    return length_within(asked, a.n_ctx, rotary=a.rotary is not None, of_text=of_text)


def length_within(asked: int | None, n_ctx: int, *, rotary: bool, of_text: int | None = None) -> int:
    """Positions of a window of a model that reads so many; see `fitted_length`."""
    require_positions(asked, n_ctx)
    return asked or min(n_ctx, LONGEST_ROTARY if rotary else LONGEST, of_text or LONGEST)


def chosen_destination(spec: Positions, model: Model) -> int | None:
    """The token whose query stands for all; None = the mean query.

    Raises:
        ValueError: if it is no single token of the model.
    """
    return None if spec.destination == MEAN else token_of(spec.destination, model.vocabulary)


def token_weights(frequencies: Frequencies | None, a: Architecture) -> npt.NDArray[np.float64]:
    """Weights of all tokens, which sum to 1: by how often they occur, or all alike; BOS has none.

    Args:
        frequencies: how often they occur; None = all alike.
        a: of the model.

    Raises:
        ValueError: if the counts name a token that the model has not, or none but BOS.
    """
    weight_V = np.ones(a.vocab_size, np.float64)
    if frequencies is not None:
        frequencies.require_inside(a.vocab_size)
        weight_V[:] = 0
        weight_V[np.array(frequencies.token_ids)] = frequencies.counts
    weight_V[a.require_bos()] = 0
    if not weight_V.sum() > 0:
        raise ValueError(f"--frequencies {frequencies and frequencies.file} counts no token but BOS; give more tokens")
    weight_V /= weight_V.sum()
    return weight_V
