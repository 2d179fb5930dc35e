"""The section of a report that shows every ablated component against every head downstream."""

from __future__ import annotations

from qkatlas.jobs.report.section import Section, columns

SECTIONS = (
    Section(
        kind="ablation",
        place=40,
        needs=("ablation",),
        build=lambda shown: {"table": columns(shown.table("ablation"))},
    ),
)
