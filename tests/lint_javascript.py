"""Checks the report's JavaScript with Oxlint, as the page runs it: all files in one scope, in their order.

python tests/lint_javascript.py

One file by itself would seem to use names that nobody declares, and to declare names that nobody uses.
"""

from __future__ import annotations

import bisect
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from qkatlas.outputs.report.page import SCRIPTS

ROOT = Path(__file__).parents[1]
ASSETS = "outputs/report/assets"


def read_asset(name: str) -> str:
    """The text of one of the report's files."""
    return resources.files("qkatlas.outputs.report").joinpath("assets", name).read_text(encoding="utf-8")


def faults(read: Callable[[str], str] = read_asset) -> list[str]:
    """What the linter finds.

    Args:
        read: gives the text of a file of the report by its name.

    Returns:
        One line a fault: file, line and column, what is wrong, the rule.
    """
    opening = '"use strict";\n(() => {\n'
    starts, text = [], opening
    for name in SCRIPTS:
        starts.append(text.count("\n"))
        text += read(name) + "\n"
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "page.js")
        page.write_text(text + "})();\n", encoding="utf-8")
        program = Path(sys.executable).with_name("oxlint")
        done = subprocess.run(
            [program, "--config", ROOT / ".oxlintrc.json", "--format", "json", page], capture_output=True, text=True
        )
    lines = []
    for fault in json.loads(done.stdout)["diagnostics"]:
        span = fault["labels"][0]["span"] if fault["labels"] else {"line": 1, "column": 1}
        place = max(0, bisect.bisect_right(starts, span["line"] - 1) - 1)
        where = f"{ASSETS}/{SCRIPTS[place]}:{span['line'] - starts[place]}:{span['column']}"
        lines.append(f"{where}: {fault['message']} {fault.get('code', '')}".rstrip())
    return lines


if __name__ == "__main__":
    found = faults()
    print("\n".join(found) or f"{len(SCRIPTS)} scripts checked")
    sys.exit(bool(found))
