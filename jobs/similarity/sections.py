"""The section of a report that shows score less self score by cosine similarity."""

from __future__ import annotations

from qkatlas.jobs.report.section import Section, columns

SECTIONS = (
    Section(
        kind="similarity",
        place=50,
        needs=("similarity",),
        build=lambda shown: {"head": shown.head, "table": columns(shown.table("similarity"))},
    ),
)
