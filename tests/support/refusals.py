"""Requests that are refused: one line, exit code 2, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from qkatlas.jobs.main import run


def refused(
    job: str, model: Path, folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: list[str]
) -> None:
    """Submit a bad request and check how it ends."""
    out = folder / "runs"
    code = run([job, "--model", str(model), "--in-process", "--out", str(out), *arguments])
    error = capsys.readouterr().err
    assert code == 2
    assert error.startswith("submit: error: ")
    assert error.count("\n") == 1
    for text in named:
        assert text in error
    assert not out.exists()
