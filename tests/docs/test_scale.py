"""The plans in docs/scale.md are what the command prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qkatlas.jobs.main import run

TEXT = (Path(__file__).parents[2] / "docs/scale.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```\n\$ submit (plan [^\n]+)\n(.*?)```", TEXT, re.DOTALL)


def test_there_are_plans() -> None:
    assert len(BLOCKS) == 3


@pytest.mark.parametrize(("command", "printed"), BLOCKS)
def test_a_plan_is_as_it_is_printed(command: str, printed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command.split()) == 0
    assert capsys.readouterr().out == printed
