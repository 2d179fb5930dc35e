"""The options of `submit head-scan`."""

from __future__ import annotations

import re

import pytest

from qkatlas.jobs.main import run

OPTIONS = {
    "--layers",
    "--exclude-hubs",
    "--heads",
    "--top-k",
    "--states",
    "--prefix",
    "--windows",
    "--draws",
    "--text",
    "--scores",
    "--offset",
    "--prompts",
    "--length",
    "--categories",
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
    "--circuit",
    "--unembed",
}


def test_every_option_has_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["head-scan", "--help"]) == 0
    assert set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE)) == OPTIONS
