"""Where results came from: code, versions, machine and command."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from qkatlas.outputs.runs.record import Entry

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


@dataclass(frozen=True, kw_only=True)
class Code:
    """The checkout that the code ran from.

    Attributes:
        commit: its commit.
        dirty: whether it held changes besides.
    """

    commit: str
    dirty: bool

    @classmethod
    def of(cls, entry: Entry) -> Code:
        """Read a code state; ShapeError if it is none."""
        return cls(commit=entry.text("commit"), dirty=bool(entry.maybe_flag("dirty")))


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """How a run was made; None, or empty, where that is not known.

    Attributes:
        finished: when, in ISO 8601.
        argv: the command.
        host: the driver's machine.
        platform: its operating system.
        python: version of Python.
        versions: versions of the packages that results may depend on.
        code: the checkout; None where the code is an installed package.
        model: what the user called the model.
        executor: where shards ran, such as `ray`.
        workers: how many ran at a time.
        devices: what they computed on.
        tf32: whether TF32 was allowed.
        seed: the seed asked for.
        seconds: wall-clock seconds of each stage.
    """

    finished: str | None = None
    argv: tuple[str, ...] = ()
    host: str | None = None
    platform: str | None = None
    python: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    code: Code | None = None
    model: str | None = None
    executor: str | None = None
    workers: int | None = None
    devices: tuple[str, ...] = ()
    tf32: bool | None = None
    seed: int | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The provenance as a JSON object."""
        return asdict(self)

    @classmethod
    def of(cls, entry: Entry) -> Provenance:
        """Read a provenance; ShapeError if it is none."""
        code, versions, seconds = (entry.maybe_entry(name) for name in ("code", "versions", "seconds"))
        texts = {name: entry.maybe_text(name) for name in _TEXTS}
        stages = {} if seconds is None else {name: seconds.maybe_number(name) or 0.0 for name in seconds.content}
        return cls(
            **texts,
            argv=entry.maybe_texts("argv"),
            versions={} if versions is None else {name: versions.text(name) for name in versions.content},
            code=None if code is None else Code.of(code),
            workers=entry.maybe_whole("workers"),
            devices=entry.maybe_texts("devices"),
            tf32=entry.maybe_flag("tf32"),
            seed=entry.maybe_whole("seed"),
            seconds=stages,
        )


_TEXTS = ("finished", "host", "platform", "python", "model", "executor")


def provenance(
    argv: Sequence[str],
    *,
    model: str,
    executor: str,
    workers: int,
    devices: Sequence[str],
    seed: int,
    seconds: Mapping[str, float],
) -> Provenance:
    """Describe how a run was made, now and by this process.

    Args:
        argv: the command.
        model: what the user called the model.
        executor: where shards ran.
        workers: how many ran at a time.
        devices: what they computed on.
        seed: the seed asked for.
        seconds: wall-clock seconds of each stage.

    Returns:
        All of it, for the manifest.
    """
    versions = {name: version for name in PACKAGES if (version := _version(name))}
    return Provenance(
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        # Arguments may hold bytes that are no text, which JSON readers refuse.
        argv=tuple(os.fsencode(argument).decode("utf-8", "backslashreplace") for argument in argv),
        host=socket.gethostname(),
        platform=platform.platform(),
        python=platform.python_version(),
        versions=versions | _note().get("versions", {}),
        code=_code_state(),
        model=model,
        executor=executor,
        workers=workers,
        devices=tuple(devices),
        tf32=False,
        seed=seed,
        seconds=dict(seconds),
    )


def is_copy() -> bool:
    """Whether this code is a copy that was sent to a cluster with a job."""
    return (_ROOT / NOTE).exists()


def note() -> str:
    """What a copy of this code needs in its `NOTE` to tell later where it came from: a JSON object."""
    version = _note().get("versions", {}).get("qkatlas") or _version("qkatlas")
    code = _code_state()
    return json.dumps(
        {"versions": {"qkatlas": version} if version else {}, "code": None if code is None else asdict(code)}
    )


def _note() -> dict[str, Any]:
    return dict(json.loads((_ROOT / NOTE).read_text(encoding="utf-8"))) if is_copy() else {}


def _code_state() -> Code | None:
    if not is_copy():
        return _git_state(_ROOT)
    noted = _note()["code"]
    return None if noted is None else Code(**noted)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_state(root: Path) -> Code | None:
    """Commit of the checkout the code runs from, or None where it runs from an installed package."""
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return Code(commit=commit, dirty=bool(_git(root, "status", "--porcelain")))
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.strip()
