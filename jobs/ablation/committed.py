"""What an ablation run reads again of what its shards committed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qkatlas.jobs.ablation.corpus import Corpus
from qkatlas.outputs.runs.part import Part
from qkatlas.outputs.runs.reader import read_parts
from qkatlas.outputs.runs.run import Run
from qkatlas.pipeline.passes.components import Component, reached


def unchanged_parts(run: Run, corpus: Corpus) -> list[Part] | None:
    """What was committed of a corpus with nothing ablated; None unless all of it is there."""
    return run.parts_of(corpus.unchanged())


def read_means(run: Run, parts: Sequence[Part]) -> dict[Component, np.ndarray]:
    """Mean outputs over all passages and positions, float32 [D], from committed sums."""
    table = read_parts(run, parts, "output_sums")
    sums = [np.array(values) for values in table["sum"].to_pylist()]  # those of heads may be of another width
    totals: dict[Component, np.ndarray] = {}
    counts: dict[Component, int] = {}
    rows = zip(*(table[name].to_pylist() for name in ("kind", "layer", "count")), sums, strict=True)
    for kind, layer, count, sum_D in rows:
        component = Component(kind, layer)
        totals[component] = totals.get(component, np.zeros(len(sum_D))) + sum_D
        counts[component] = counts.get(component, 0) + count
    return {component: (total / counts[component]).astype(np.float32) for component, total in totals.items()}


def read_scores(run: Run, corpus: Corpus, group: Sequence[Component]) -> np.ndarray | None:
    """Scores of the heads that some components reach.

    Args:
        run: the run.
        corpus: the passages.
        group: the components.

    Returns:
        float64 [M, P, Z], component by component and passage by passage; None where none was measured.
    """
    return _read(run, corpus, group, "prompt_scores", "score", len(reached(group[0], corpus.measurement.heads)))


def read_losses(run: Run, corpus: Corpus, group: Sequence[Component]) -> np.ndarray:
    """Losses summed over the predicted tokens of a passage, where the corpus is the one that they are taken on.

    Args:
        run: the run.
        corpus: the passages.
        group: the components.

    Returns:
        float64 [M, P].
    """
    losses_MP = _read(run, corpus, group, "passage_losses", "loss")
    assert losses_MP is not None, "the corpus is the one that losses are taken on"
    return losses_MP


def _read(
    run: Run, corpus: Corpus, group: Sequence[Component], table: str, column: str, *shape: int
) -> np.ndarray | None:
    receipts = run.receipts()
    pieces = [
        read_parts(run, [part])[column].to_numpy().reshape(len(group), -1, *shape)
        for shard in corpus.shards_of(group)
        for part in receipts[shard.name].parts
        if part.path.startswith(f"{table}/")
    ]
    return np.concatenate(pieces, axis=1) if pieces else None
