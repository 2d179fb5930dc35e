"""Jobs that exist in a test alone."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from qkatlas.jobs.full_vocab.spec import FullVocab
from qkatlas.jobs.loop.declaration import Declaration, declarations
from qkatlas.jobs.report.section import Section


def declare(monkeypatch: pytest.MonkeyPatch, name: str, *sections: Section) -> None:
    """Make the report know a job that shows some sections, as if there were a package of it."""
    package = f"qkatlas.jobs.{name}"
    modules = {package: ModuleType(package), f"{package}.sections": ModuleType(f"{package}.sections")}
    modules[package].__path__ = []
    modules[f"{package}.sections"].SECTIONS = sections
    for path, module in modules.items():
        monkeypatch.setitem(sys.modules, path, module)
    job = Declaration(name=name, summary="", spec=FullVocab, package=package, sections="sections:SECTIONS")
    monkeypatch.setattr("qkatlas.jobs.report.content.declarations", lambda: {**declarations(), name: job})
