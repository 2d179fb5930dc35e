"""The published figures of tasks and repeated prefixes: the run they stand on, and what it says.

The source prints the corrupted prefixes of two heads under one name: attention "plummets" in 5.1 "while 5.1 still
maintains" 0.45. The second is taken for 5.5, which is what the paragraph compares.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.reproduce.published import DEFINED, PUBLISHED, Facts
from qkatlas.jobs.reproduce.verdicts import Measured, absent
from qkatlas.jobs.tasks.job import TasksJob
from qkatlas.jobs.tasks.spec import Tasks
from qkatlas.outputs.runs.reader import read_whole
from qkatlas.outputs.runs.run import Run
from qkatlas.pipeline.models.head import Head

_Found = dict[tuple[str, str], Measured]
_Rows = Sequence[Mapping[str, Any]]

TASKS = "tasks"
"""Name of the run."""

_SUCCESSOR, _TWO_JOBS, _LONG, _SHORT = Head(9, 1), Head(10, 2), Head(5, 1), Head(5, 5)
_JOBS = ("integer-copying", "url")
_PROMPTS = 32


def task_jobs(model: Model, *, seed: int) -> Iterator[tuple[str, TasksJob]]:
    """The job about tasks: layer 10 and L9H1 zero-ablated; none where the model has no such heads, or reads no text.

    Args:
        model: the model.
        seed: of what the job draws.
    """
    a = model.checkpoint.architecture
    if model.vocabulary.has_tokenizer and a.n_layers > _TWO_JOBS.layer and a.n_heads > _SHORT.index:
        heads = (str(_SUCCESSOR), *(str(Head(_TWO_JOBS.layer, head)) for head in range(a.n_heads)))
        spec = Tasks(
            tasks=f"{','.join(_JOBS)},succession-*,induction-*", heads=heads, kind="zero", exact=0, prompts=_PROMPTS,
            seed=seed,
        )  # fmt: skip
        yield TASKS, TasksJob(spec, model)


def known_tasks(facts: Facts, runs: Mapping[str, Run]) -> _Found:
    """What the run says of the published figures.

    Args:
        facts: the published figures.
        runs: by their names.

    Raises:
        ValueError: if the run is damaged.
    """
    if TASKS not in runs:
        reason = f"the model has no head {_TWO_JOBS}, or no tokenizer that reads a text"
        return {
            (one.figure, variant): absent(reason)
            for one in facts.figures
            if one.figure == "heads.successor" or one.figure.startswith(("tasks.", "prefix."))
            for variant in one.variants
        }
    tables = ("task_heads", "prefix", "prefix_corrupted")
    heads, prefix, corrupted = (read_whole(runs[TASKS], name).to_pylist() for name in tables)
    return of_task_rows(heads) | of_prefix_rows(prefix, corrupted)


def of_task_rows(rows: _Rows) -> _Found:
    """L9H1 as a successor head, and the two jobs of L10H2.

    Args:
        rows: of `task_heads`.
    """
    found: _Found = {}
    own = [row for row in _of(rows, _SUCCESSOR) if row["task"].startswith("succession-")]
    listed = ", ".join(f"{row['task']} {row['specific']:+.2f}{' serves' if row['serves'] else ''}" for row in own)
    value = sum(row["serves"] for row in own) if own else None
    found["heads.successor", DEFINED] = Measured(value=value, note=listed or "no succession can be written")
    for variant, column in ((DEFINED, "specific"), (PUBLISHED, "effect")):
        first, notes = 0, []
        for task in _JOBS:
            of_task = [row for row in rows if row["task"] == task and row["layer"] == _TWO_JOBS.layer]
            if not of_task:
                break
            best = max(of_task, key=lambda row, column=column: row[column])  # type: ignore[misc]
            first += best["head"] == _TWO_JOBS.index
            notes.append(f"{task}: L{best['layer']}H{best['head']} {best[column]:+.3f}")
        whole = len(notes) == len(_JOBS)
        note = "; ".join(notes) if whole else "the vocabulary cannot write both tasks"
        found["tasks.two_jobs", variant] = Measured(value=first if whole else None, note=note)
    return found


def of_prefix_rows(prefix: _Rows, corrupted: _Rows) -> _Found:
    """Attention and attribution of L5H1 and L5H5 by the length of a prefix, and with it corrupted on natural text.

    Args:
        prefix: rows of `prefix`.
        corrupted: rows of `prefix_corrupted`.
    """
    found: _Found = {}
    for figure, column in (("prefix.attention", "attention"), ("prefix.dla", "dla_centred")):
        rises = {}
        for head in (_LONG, _SHORT):
            by_length = {row["length"]: row[column] for row in _of(prefix, head)}
            longer = [value for length, value in by_length.items() if length > 1]
            rises[head] = float(np.mean(longer)) - by_length[1] if longer and 1 in by_length else float("nan")
        note = ", ".join(f"{head} rises by {rise:.3f}" for head, rise in rises.items())
        found[figure, DEFINED] = Measured(value=rises[_LONG] - rises[_SHORT], note=note)
    for head, name in ((_LONG, "long"), (_SHORT, "short")):
        own = [row for row in _of(corrupted, head) if row["source"] == "text"]
        for column in ("before", "after"):
            if (name, column) == ("short", "before"):
                continue
            measured = absent(f"{head} gives no key over 0.3 of its attention after two repeated tokens of the text")
            if own:
                measured = Measured(value=own[0][column], note=f"{own[0]['n']} examples")
            found[f"prefix.{name}_{column}", DEFINED] = measured
    return found


def _of(rows: _Rows, head: Head) -> list[Mapping[str, Any]]:
    return [row for row in rows if (row["layer"], row["head"]) == (head.layer, head.index)]
