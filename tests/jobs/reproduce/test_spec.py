"""The options of `submit reproduce`."""

from __future__ import annotations

import re

import pytest

from qkatlas.jobs.main import run

OPTIONS = {
    "--frequencies",
    "--features",
    "--model",
    "--gpus",
    "--out",
    "--address",
    "--detach",
    "--wait",
    "--in-process",
    "--seed",
    "--quiet",
    "--verbose",
    "--config",
}


def test_every_option_has_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["reproduce", "--help"]) == 0
    assert set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE)) == OPTIONS
