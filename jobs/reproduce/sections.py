"""The section of a report that shows published figures beside the measured ones."""

from __future__ import annotations

from qkatlas.jobs.report.section import Section, columns

SECTIONS = (
    Section(
        kind="reproduction",
        place=60,
        needs=("reproduction",),
        build=lambda shown: {"head": shown.head, "table": columns(shown.table("reproduction"))},
    ),
)
