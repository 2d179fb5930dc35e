"""What a neurons run stands on beside the model: its group of heads, the weights of tokens, the texts of classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from qkatlas.jobs.inputs.frequencies import Frequencies
from qkatlas.jobs.inputs.model import Model
from qkatlas.outputs.runs.reader import read_whole
from qkatlas.outputs.runs.run import Run
from qkatlas.pipeline.models.architecture import Architecture
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.neurons.measures import Classes
from qkatlas.pipeline.positions.kinds import CONTEXTUAL
from qkatlas.pipeline.text.passages import tokenise


def contextual_heads(run: Run) -> tuple[int, ...]:
    """The heads of layer 0 that a positions run calls contextual.

    Args:
        run: the finished run.

    Raises:
        ValueError: if it calls none so.
    """
    rows = [row for row in read_whole(run, "positions").to_pylist() if row["layer"] == 0]
    found = tuple(sorted(row["head"] for row in rows if row["class"] == CONTEXTUAL))
    if not found:
        counts = Counter(row["class"] for row in rows)
        listed = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        raise ValueError(
            f"--group auto finds no contextual head in layer 0 ({listed}; run {run.folder.name}); name heads with "
            "--group, for example L0H0,L0H2"
        )
    return found


def named_heads(group: str, a: Architecture) -> tuple[int, ...]:
    """The heads of layer 0 that `--group` names, by their places.

    Args:
        group: names apart by commas.
        a: of the model.

    Raises:
        ValueError: if one is malformed, in a later layer, or outside the model.
    """
    heads = [Head.parse(name.strip()) for name in group.split(",")]
    for head in heads:
        if head.layer:
            raise ValueError(
                f"--group {head} is in layer {head.layer}; the first MLP reads heads of layer 0: name these, such as "
                "L0H0"
            )
        head.require_inside(a.n_layers, a.n_heads)
    return tuple(sorted({head.index for head in heads}))


def token_weights(frequencies: Frequencies | None, a: Architecture) -> npt.NDArray[np.float64]:
    """Weights of all tokens, which sum to 1: all alike, or by their counts with 1/2 added; BOS has none.

    Args:
        frequencies: how often tokens occur; None = all alike.
        a: of the model.

    Raises:
        ValueError: if the counts name a token that the model has not.
    """
    weight_V = np.full(a.vocab_size, 0.5)
    if frequencies is not None:
        frequencies.require_inside(a.vocab_size)
        weight_V[np.array(frequencies.token_ids)] += frequencies.counts
    weight_V[a.require_bos()] = 0
    weight_V /= weight_V.sum()
    return weight_V


def read_classes(texts: Sequence[str] | None, model: Model) -> Classes | None:
    """What Naive Bayes makes of two texts; BOS is no token of them.

    Args:
        texts: of A and B; None = there are none.
        model: whose tokenizer reads them.

    Raises:
        ValueError: if the model has no tokenizer, or a text gives no token.
    """
    if texts is None:
        return None
    a = model.checkpoint.architecture
    tokens = []
    for name, text in zip("AB", texts, strict=True):
        if not text.strip():
            raise ValueError(f"--classes: text {name} is empty; give two files with some text")
        read = tokenise(model.checkpoint.path, text, a.vocab_size)
        tokens.append(read[read != a.require_bos()])
    return Classes.of(tokens[0], tokens[1], a.vocab_size)
