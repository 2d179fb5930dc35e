"""The linter sees the report's scripts as one program, and names the file of a fault."""

from __future__ import annotations

import pytest
from lint_javascript import faults, read_asset


def test_the_scripts_are_sound() -> None:
    assert faults() == []


@pytest.mark.parametrize(
    ("name", "line", "fault"),
    [
        ("map.js", "let unused = 1;", "'unused' is declared but never used"),
        ("data.js", "absent();", "'absent' is not defined"),
        ("main.js", "if (headsSection == null) main();", "Expected === and instead saw =="),
        ("dom.js", "class TokenMap {}", "`TokenMap` has already been declared"),  # of another file
        ("token.js", "function (", "Expected function name"),
    ],
)
def test_a_fault_is_found_where_it_is(name: str, line: str, fault: str) -> None:
    def changed(asset: str) -> str:
        text = read_asset(asset)
        return text + line + "\n" if asset == name else text

    place = f"outputs/report/assets/{name}:{read_asset(name).count(chr(10)) + 1}:"
    assert any(found.startswith(place) and fault in found for found in faults(changed))
