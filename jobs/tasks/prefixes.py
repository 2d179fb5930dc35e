"""The tables of the prefix study: attention and attribution by the length of a prefix, and with it corrupted.

Shapes: P prompts, L layers, N heads of a layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from qkatlas.outputs.schemas import tasks as schemas
from qkatlas.pipeline.passes.resampling import PairedBootstrap
from qkatlas.pipeline.tasks.kinds import PREFIXES

SYNTHETIC, NATURAL = "synthetic", "text"


def synthetic_tables(found: Mapping[str, pa.Table], shape: tuple[int, int], seed: int) -> tuple[pa.Table, pa.Table]:
    """`prefix`, and the synthetic rows of `prefix_corrupted`.

    Args:
        found: by the names of tasks, rows of `task_dla`, head by head in order of prompts.
        shape: layers, and heads of a layer.
        seed: of the bootstrap intervals.
    """
    curves, before, after = [], [], []
    for task, length in PREFIXES.items():
        if task not in found:
            continue
        values = {
            name: found[task][name].to_numpy(zero_copy_only=False).reshape(*shape, -1)
            for name in ("attention", "control_attention", "dla_centred", "corrupted_attention")
        }
        curves += _curve(length, values, seed)
        if length > 1:
            before.append(values["attention"])
            after.append(values["corrupted_attention"])
    rows = []
    if before:
        both = np.concatenate(before, axis=2), np.concatenate(after, axis=2)
        for layer, head in np.ndindex(shape):
            rows.append(_paired(SYNTHETIC, layer, head, both[0][layer, head], both[1][layer, head], seed))
    return (
        pa.Table.from_pylist(curves, schema=schemas.PREFIX),
        pa.Table.from_pylist(rows, schema=schemas.PREFIX_CORRUPTED),
    )


def _curve(length: int, values: Mapping[str, np.ndarray], seed: int) -> list[dict[str, Any]]:
    layers, heads, count = values["attention"].shape
    bootstrap = PairedBootstrap(np.ones(count), seed)
    ends = {name: bootstrap.interval(values[name].reshape(-1, count).T) for name in ("attention", "dla_centred")}
    rows = []
    for place, (layer, head) in enumerate(np.ndindex(layers, heads)):
        rows.append(
            {
                "length": length, "layer": layer, "head": head, "n": count,
                **{name: float(values[name][layer, head].mean())
                   for name in ("attention", "control_attention", "dla_centred")},
                "attention_low": _or_none(ends["attention"][0][place]),
                "attention_high": _or_none(ends["attention"][1][place]),
                "dla_low": _or_none(ends["dla_centred"][0][place]),
                "dla_high": _or_none(ends["dla_centred"][1][place]),
            }
        )  # fmt: skip
    return rows


def text_tables(examples: pa.Table, seed: int) -> tuple[pa.Table, list[dict[str, Any]]]:
    """`prefix_text`, and the rows of `prefix_corrupted` from natural text.

    Args:
        examples: rows of `prefix_examples`.
        seed: of the bootstrap intervals.
    """
    layer, head, length = (examples[name].to_numpy() for name in ("layer", "head", "length"))
    before = examples["attention"].to_numpy()
    after = examples["corrupted_attention"].to_numpy(zero_copy_only=False).astype(np.float64)
    counted, corrupted = [], []
    for place in sorted(set(zip(layer.tolist(), head.tolist(), strict=True))):
        here = (layer == place[0]) & (head == place[1])
        lengths, counts = np.unique(length[here], return_counts=True)
        counted += [
            {"layer": place[0], "head": place[1], "length": int(one), "n": int(n), "share": float(n / here.sum())}
            for one, n in zip(lengths, counts, strict=True)
        ]
        both = here & ~np.isnan(after)
        if both.any():
            corrupted.append(_paired(NATURAL, *place, before[both], after[both], seed))
    return pa.Table.from_pylist(counted, schema=schemas.PREFIX_TEXT), corrupted


def _paired(source: str, layer: int, head: int, before: np.ndarray, after: np.ndarray, seed: int) -> dict[str, Any]:
    differences = after - before
    low, high = PairedBootstrap(np.ones(len(differences)), seed).interval(differences[:, None])
    return {
        "source": source, "layer": layer, "head": head, "n": len(differences), "before": float(before.mean()),
        "after": float(after.mean()), "difference": float(differences.mean()),
        "difference_low": _or_none(low[0]), "difference_high": _or_none(high[0]),
    }  # fmt: skip


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
