"""What is compiled is kept on disk, and thrown away when a file changes that it calls a function of (about 5 s)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qkatlas.pipeline.scoring import cpu_compile

INNER = "from cpu_compile import compiled\n@compiled\ndef inner(x):\n    return x + {}\n"
OUTER = "from cpu_compile import compiled\nfrom cpu_inner import inner\n@compiled\ndef outer(x):\n    return inner(x)\n"
CALL = "from cpu_outer import outer; print(outer(1), len(outer.stats.cache_hits))"


def call(folder: Path) -> list[int]:
    """What the outer function gives for 1 in a process of its own, and whether it was found on disk."""
    done = subprocess.run([sys.executable, "-c", CALL], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return [int(number) for number in done.stdout.split()]


@pytest.mark.slow
def test_a_function_is_compiled_anew_when_what_it_calls_in_another_file_changes(tmp_path: Path) -> None:
    shutil.copy(cpu_compile.__file__, tmp_path)
    (tmp_path / "cpu_inner.py").write_text(INNER.format(1))
    (tmp_path / "cpu_outer.py").write_text(OUTER)
    assert call(tmp_path) == [2, 0]
    assert call(tmp_path) == [2, 1]
    (tmp_path / "cpu_inner.py").write_text(INNER.format(2))
    assert call(tmp_path) == [3, 0]
