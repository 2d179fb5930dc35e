"""The tables of a whole tasks run: what heads do to tasks, which they serve, and how many tasks each.

Shapes: P prompts of a task, M measured heads, L layers, N heads of a layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qkatlas.jobs.tasks.chosen import Chosen
from qkatlas.jobs.tasks.committed import Linear
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.passes.resampling import PairedBootstrap
from qkatlas.pipeline.tasks.kinds import family_of_task
from qkatlas.pipeline.tasks.labels import ByAnswer, entropy, false_shares, most_missed, one_sided, serves
from qkatlas.pipeline.tasks.prompts import TaskPrompts

_LEAST_OTHERS = 3
"""Measured heads of a layer that another is compared with."""


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """What was measured of one task.

    Attributes:
        prompts: the task.
        heads: all heads, ascending.
        chosen: which of them were measured.
        linear: estimates of all.
        clean: float64 [P, 2, 2], losses with nothing ablated, by prompt or control, and by answers looked up.
        ablated: float64 [M, P, 2, 2], the same with each measured head ablated.
        dla: float64 [L, N, 2], means over prompts.
        components: sums over prompts by `kind|layer`.
        residual: largest difference between a logit and the sum over components.
    """

    prompts: TaskPrompts
    heads: Sequence[Head]
    chosen: Chosen
    linear: Linear
    clean: np.ndarray
    ablated: np.ndarray
    dla: np.ndarray
    components: Mapping[str, Sequence[float]]
    residual: float


@dataclass(frozen=True)
class _Effects:
    """Effects of the measured heads, by prompt: float64 [P, M] each."""

    effect: np.ndarray
    specific: np.ndarray
    null: np.ndarray
    control: np.ndarray


def tables_of(results: Sequence[TaskResult], seed: int) -> dict[str, list[dict[str, Any]]]:
    """Rows of `tasks`, `task_heads`, `task_counts` and `dla_components`.

    Args:
        results: of every task.
        seed: of the bootstrap intervals.
    """
    tasks = [_task(result, seed) for result in results]
    for row, share in zip(tasks, false_shares(np.array([row["gain_false_share"] for row in tasks])), strict=True):
        row["gain_false_share"] = float(share)
    effects = [_effects(result) for result in results]
    # Only what could be labelled counts among labels that may be false.
    p_values = [one_sided(_groups(result).means(each.specific)) for result, each in zip(results, effects, strict=True)]
    false = [np.full(len(p), np.nan) for p in p_values]
    solved = [number for number, row in enumerate(tasks) if row["solved"]]
    if solved:
        shares = false_shares(np.concatenate([p_values[number] for number in solved]))
        sizes = np.cumsum([len(p_values[number]) for number in solved])[:-1]
        for number, of_task in zip(solved, np.split(shares, sizes), strict=True):
            false[number] = of_task
    heads: list[dict[str, Any]] = []
    for result, row, each, of_task in zip(results, tasks, effects, false, strict=True):
        rows = _head_rows(result, row, each, of_task, seed)
        served = {(one["layer"], one["head"]) for one in rows if one["serves"]}
        hits = sum((head.layer, head.index) in served for head in result.chosen.audited)
        row["n_heads"], row["audit_heads"] = len(served), hits
        row["missed_most"] = most_missed(result.chosen.left, len(result.chosen.audited), hits)
        row["null_heads"] = sum(one.pop("null_serves") for one in rows)
        heads += rows
    return {
        "tasks": tasks,
        "task_heads": heads,
        "task_counts": _counts(heads, {row["task"]: row["gain"] for row in tasks}),
        "dla_components": [one for result in results for one in _components(result)],
    }


def _task(result: TaskResult, seed: int) -> dict[str, Any]:
    prompts, clean = result.prompts, result.clean
    gain_P = clean[:, 1, 0] - clean[:, 0, 0]
    groups = _groups(result)
    low, high = _interval(gain_P[:, None], groups, seed)
    return {
        "task": prompts.task,
        "family": family_of_task(prompts.task),
        "control": prompts.control,
        "n_prompts": len(prompts),
        "n_answers": len(groups.size_G),
        "loss": float(clean[:, 0, 0].mean()),
        "control_loss": float(clean[:, 1, 0].mean()),
        "gain": float(gain_P.mean()),
        "gain_low": _or_none(low[0]),
        "gain_high": _or_none(high[0]),
        # A share only once it is compared with those of the other tasks.
        "gain_false_share": float(one_sided(groups.means(gain_P[:, None]))[0]),
        "solved": bool(low[0] > 0),  # of a single prompt it is NaN, and nothing is known
        "shuffled_loss": float(clean[:, 0, 1].mean()),
        "n_exact": len(result.chosen.measured),
        "n_audited": len(result.chosen.audited),
        "dla_residual": result.residual,
    }


def _effects(result: TaskResult) -> _Effects:
    change = result.ablated - result.clean  # [M, P, 2, 2]
    specific_MPW = change[:, :, 0] - change[:, :, 1]
    return _Effects(change[:, :, 0, 0].T, specific_MPW[..., 0].T, specific_MPW[..., 1].T, change[:, :, 1, 0].T)


def _head_rows(
    result: TaskResult, task: Mapping[str, Any], effects: _Effects, false_M: np.ndarray, seed: int
) -> list[dict[str, Any]]:
    groups = _groups(result)
    intervals = {name: _interval(getattr(effects, name), groups, seed) for name in ("effect", "specific", "null")}
    place_of = {head: place for place, head in enumerate(result.chosen.measured)}
    audited = set(result.chosen.audited)
    z_of = _z_in_layers(result.chosen.measured, effects.specific.mean(axis=0))
    rows = []
    for head in result.heads:
        row: dict[str, Any] = {
            "task": task["task"], "layer": head.layer, "head": head.index, "serves": False, "null_serves": False,
            "effect_linear": float(result.linear.estimates[0, head.layer, head.index]),
            "control_effect_linear": float(result.linear.estimates[1, head.layer, head.index]),
            "exact": head in place_of, "audited": head in audited,
            "dla": float(result.dla[head.layer, head.index, 0]),
            "dla_centred": float(result.dla[head.layer, head.index, 1]),
        }  # fmt: skip
        if (place := place_of.get(head)) is not None:
            ends = {name: (low[place], high[place]) for name, (low, high) in intervals.items()}
            specific = float(effects.specific[:, place].mean())
            false = float(false_M[place])
            row |= {
                "effect": float(effects.effect[:, place].mean()),
                "control_effect": float(effects.control[:, place].mean()),
                "specific": specific,
                "null_specific": float(effects.null[:, place].mean()),
                "z_layer": z_of[head],
                "false_share": _or_none(false),
            }
            for name, column in (("effect", "effect"), ("specific", "specific"), ("null", "null_specific")):
                row[f"{column}_low"], row[f"{column}_high"] = map(_or_none, ends[name])
            known = {
                "solved": task["solved"],
                "gain": task["gain"],
                "gain_false_share": task["gain_false_share"],
                "effect_low": ends["effect"][0],
            }
            row["serves"] = serves(**known, specific=specific, specific_low=ends["specific"][0], false_share=false)
            row["null_serves"] = serves(
                **known | {"effect_low": np.inf}, specific=row["null_specific"], specific_low=ends["null"][0],
                false_share=0.0,
            )  # fmt: skip
        rows.append(row)
    return rows


def _z_in_layers(measured: Sequence[Head], specific_M: np.ndarray) -> dict[Head, float | None]:
    found: dict[Head, float | None] = {}
    layers = np.array([head.layer for head in measured])
    for place, head in enumerate(measured):
        others = specific_M[(layers == head.layer) & (np.arange(len(measured)) != place)]
        std = others.std() if len(others) >= _LEAST_OTHERS else 0.0
        found[head] = float((specific_M[place] - others.mean()) / std) if std > 0 else None
    return found


def _counts(rows: Sequence[Mapping[str, Any]], gains: Mapping[str, float]) -> list[dict[str, Any]]:
    """One row a head: the tasks that it serves."""
    found = []
    for layer, index in sorted({(row["layer"], row["head"]) for row in rows}):
        served = [row for row in rows if (row["layer"], row["head"]) == (layer, index) and row["serves"]]
        shares = {row["task"]: row["specific"] / gains[row["task"]] for row in served}
        families = {family_of_task(task) for task in shares}
        found.append(
            {
                "layer": layer, "head": index, "n_tasks": len(shares), "n_families": len(families),
                "task_entropy": entropy(list(shares.values())) if shares else None,
                "polysemantic": len(families) > 1,
                "tasks": sorted(shares, key=lambda task: -shares[task]),
            }
        )  # fmt: skip
    return found


def _components(result: TaskResult) -> list[dict[str, Any]]:
    count = len(result.prompts)
    rows = []
    for name, (dla, centred) in result.components.items():
        component, _, layer = name.partition("|")
        rows.append(
            {"task": result.prompts.task, "component": component, "layer": int(layer) if layer else None,
             "dla": dla / count, "dla_centred": centred / count}
        )  # fmt: skip
    return rows


def _groups(result: TaskResult) -> ByAnswer:
    return ByAnswer.of(result.prompts.answers_PA)


def _interval(values_PN: np.ndarray, groups: ByAnswer, seed: int) -> tuple[np.ndarray, np.ndarray]:
    return PairedBootstrap(groups.size_G, seed).interval(groups.means(values_PN))


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
