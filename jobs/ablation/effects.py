"""The tables of a whole ablation: how much each component's absence changes scores and losses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from qkatlas.jobs.ablation.committed import read_losses, read_scores
from qkatlas.jobs.ablation.corpus import Corpus
from qkatlas.outputs.runs.run import Run
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.passes.components import CLEAN, Component, reached
from qkatlas.pipeline.passes.resampling import PairedBootstrap


def score_rows(run: Run, corpus: Corpus, targets: Sequence[Head], *, seed: int) -> Iterator[dict[str, Any]]:
    """Rows of `ablation.parquet` but for the loss: components in order, and the heads each of them reaches.

    Args:
        run: the run, all of its shards committed.
        corpus: the prompts.
        targets: the heads that are measured.
        seed: of the bootstrap intervals.
    """
    clean_MPZ = read_scores(run, corpus, (CLEAN,))
    assert clean_MPZ is not None, "targets are measured on the prompts"
    clean_PZ = clean_MPZ[0]
    bootstrap = PairedBootstrap(np.ones(len(clean_PZ)), seed)
    for group in ((CLEAN,), *corpus.groups):
        heads = reached(group[0], targets)
        scores_MPZ = read_scores(run, corpus, group)
        if scores_MPZ is None:
            continue
        for component, scores_PZ in zip(group, scores_MPZ, strict=True):
            differences_PZ = scores_PZ - clean_PZ[:, len(targets) - len(heads) :]
            low_Z, high_Z = bootstrap.interval(differences_PZ)
            for place, head in enumerate(heads):
                yield {
                    **_columns(component),
                    "target_layer": head.layer,
                    "target_head": head.index,
                    "score_mean": float(scores_PZ[:, place].mean()),
                    "score_std": float(scores_PZ[:, place].std()),
                    "delta": float(differences_PZ[:, place].mean()),
                    "delta_low": _or_none(low_Z[place]),
                    "delta_high": _or_none(high_Z[place]),
                    "n_prompts": len(scores_PZ),
                }


def loss_rows(run: Run, corpus: Corpus, *, seed: int) -> Iterator[dict[str, Any]]:
    """Rows of `losses.parquet`.

    Args:
        run: the run, all of its shards committed.
        corpus: the passages that losses are taken on.
        seed: of the bootstrap intervals.
    """
    tokens_P = corpus.passages.predicted_PT.sum(axis=1)
    bootstrap = PairedBootstrap(tokens_P.astype(np.float64), seed)
    clean_P = read_losses(run, corpus, (CLEAN,))[0]
    for group in ((CLEAN,), *corpus.groups):
        for component, losses_P in zip(group, read_losses(run, corpus, group), strict=True):
            differences_P = losses_P - clean_P
            low_1, high_1 = bootstrap.interval((differences_P / tokens_P)[:, None])
            yield {
                **_columns(component),
                "loss": float(losses_P.sum() / tokens_P.sum()),
                "loss_delta": float(differences_P.sum() / tokens_P.sum()),
                "loss_delta_low": _or_none(low_1[0]),
                "loss_delta_high": _or_none(high_1[0]),
                "n_passages": len(tokens_P),
                "n_tokens": int(tokens_P.sum()),
            }


def _columns(component: Component) -> dict[str, Any]:
    return {
        "component": component.name,
        "kind": component.kind,
        "layer": component.layer,
        "head": component.head,
    }


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
