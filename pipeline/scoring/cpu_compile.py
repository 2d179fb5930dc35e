"""The compiler of the CPU loops: numba, with what it made kept on disk for the next process.

No fast-math: the compiler may neither reorder additions nor contract them, so that a loop gives the bits it is written
to give.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.extending import intrinsic as numba_intrinsic


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function, cached on disk.

    Numba compiles a cached function anew when the function's own file changes, and does not see what it calls in other
    files. Here it does, for calls within this folder's `cpu_*.py`: numba names its cache file after the function's
    qualified name, and that gets a digest of their text.
    """
    function.__qualname__ = f"{function.__qualname__}_{_digest_of_loops()}"
    try:
        return numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:  # numba found no writable folder for its cache: compile in every process instead
        return numba.njit(nogil=True, error_model="numpy")(function)


def intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make instructions callable from compiled functions: numba's `intrinsic`, whose type is narrower than its use."""
    return numba_intrinsic(function)


@cache
def _digest_of_loops() -> str:
    texts = (path.read_bytes() for path in sorted(Path(__file__).parent.glob("cpu_*.py")))
    return hashlib.sha256(b"".join(texts)).hexdigest()[:12]
