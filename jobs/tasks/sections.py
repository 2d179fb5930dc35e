"""The section of a report that shows which tasks rest on which heads, and how far on the length of a prefix."""

from __future__ import annotations

from typing import Any

from qkatlas.jobs.report.section import Section, Shown, columns, printable_cell

_HEAD_COLUMNS = (
    "task", "layer", "head", "effect", "effect_low", "effect_high", "control_effect", "specific", "specific_low",
    "specific_high", "z_layer", "serves", "effect_linear", "exact", "audited", "null_specific", "dla_centred",
)  # fmt: skip


def all_tasks(shown: Shown) -> dict[str, Any]:
    """What a run found: tasks, solved ones first, their heads, and curves over prefixes.

    Args:
        shown: a finished run.
    """
    tasks = shown.table("tasks").sort_by([("solved", "descending"), ("gain", "descending")])
    curves = ("length", "layer", "head", "n", "attention", "attention_low", "attention_high", "control_attention",
              "dla_centred", "dla_low", "dla_high")  # fmt: skip
    return {
        "tasks": columns(tasks, cell=printable_cell),
        "table": columns(shown.table("task_heads"), _HEAD_COLUMNS, cell=printable_cell),
        "prefix": columns(shown.table("prefix"), curves),
        "corrupted": columns(shown.table("prefix_corrupted")),
        "ablation": shown.spec.get("kind"),
    }


SECTIONS = (
    Section(
        kind="tasks", place=41, needs=("tasks", "task_heads", "prefix", "prefix_corrupted"), build=all_tasks
    ),
)  # fmt: skip
