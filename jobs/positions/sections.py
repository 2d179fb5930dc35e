"""Sections of a report."""

from __future__ import annotations

from qkatlas.jobs.report.section import Section

SECTIONS: tuple[Section, ...] = ()
