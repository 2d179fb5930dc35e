"""Where results came from: code, versions, machine and command."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "qkatlas",
    "torch",
    "numpy",
    "numba",
    "igraph",
    "leidenalg",
    "pyarrow",
    "ray",
    "safetensors",
    "tokenizers",
    "transformers",
    "transformer_lens",
)

NOTE = "qkatlas-package.json"
"""File beside a copy of the code that has no .git: the version and the commit of what was copied."""

_ROOT = Path(__file__).resolve().parents[2]
"""The checkout, or the installed package."""


def provenance(argv: Sequence[str], **more: Any) -> dict[str, Any]:
    """Describe how a run was made.

    Args:
        argv: the command.
        more: what only the caller knows: model, device, seeds, timings.

    Returns:
        A JSON object for the manifest.
    """
    return {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        # Arguments may hold bytes that are no text, which JSON readers refuse.
        "argv": [os.fsencode(argument).decode("utf-8", "backslashreplace") for argument in argv],
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))} | _note().get("versions", {}),
        "code": _code_state(),
        **more,
    }


def is_copy() -> bool:
    """Whether this code is a copy that was sent to a cluster with a job."""
    return (_ROOT / NOTE).exists()


def note() -> str:
    """What a copy of this code needs in its `NOTE` to tell later where it came from: a JSON object."""
    version = _note().get("versions", {}).get("qkatlas") or _version("qkatlas")
    return json.dumps({"versions": {"qkatlas": version} if version else {}, "code": _code_state()})


def _note() -> dict[str, Any]:
    return dict(json.loads((_ROOT / NOTE).read_text(encoding="utf-8"))) if is_copy() else {}


def _code_state() -> dict[str, Any] | None:
    return _note()["code"] if is_copy() else _git_state(_ROOT)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_state(root: Path) -> dict[str, Any] | None:
    """Commit of the checkout the code runs from, or None where it runs from an installed package."""
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.strip()
