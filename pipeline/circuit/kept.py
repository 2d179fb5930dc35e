"""Token states of the whole vocabulary, kept on disk between runs, for in context they take minutes.

Shapes: V tokens, D model.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from qkatlas.pipeline.circuit.states import States

SMALLEST = 32 << 20
"""Bytes of states that are worth keeping; fewer are made again as fast."""

LARGEST = 16 << 30
"""Bytes that are kept at most; what was not used for longest goes first."""

SPARE_SHARE = 0.1
SPARE_BYTES = 8 << 30
"""Share of the disk that stays free, or bytes, whichever is less."""

_OWN_CODE = ("states.py", "context.py", "text_streams.py")
"""Files beside this one that states come from; the others of the package change none."""

_ABANDONED_SECONDS = 24 * 3600.0
"""How old half a file is that nobody will finish."""


class KeptStates:
    """States of the whole vocabulary, each layer's read from disk where it is there, else computed and put there.

    Used as `TokenStates` are. Nothing that disk or cache refuse is an error: states are computed then.

    Attributes:
        layer: the layer whose attention reads the states.
        values_VD: float32 [V, D], the states; a new array for every layer.

    Args:
        begin: begins to compute them in front of layer 0.
        identity: all that the states follow from; JSON values.
        cache: folder of all that is kept; None = nothing is.
        every_layer: keep those of every layer passed, not only of the layers asked for; for states that cannot go on
            from what is kept.
    """

    def __init__(
        self,
        begin: Callable[[], States],
        identity: Mapping[str, Any],
        *,
        cache: Path | None,
        every_layer: bool,
    ) -> None:
        self._begin = begin
        self._every_layer = every_layer
        self._folder = _folder_of(cache, identity)
        self._computed: States | None = begin()  # at once, for it may show that the model cannot give them
        self.layer = 0
        self.values_VD = self._computed.values_VD

    def advance_to(self, layer: int) -> np.ndarray:
        """Go on to a layer, this one or a later one, and return its states."""
        if self.layer < layer:
            kept_VD = None if self._folder is None else _read(self._folder, layer)
            if kept_VD is not None:
                self._computed = None  # it would hold another layer's states beside these
                self.values_VD = kept_VD
            else:
                self._compute(layer)
            self.layer = layer
        return self.values_VD

    def _compute(self, layer: int) -> None:
        self._computed = self._computed or self._begin()
        self.values_VD = self._computed.values_VD
        for step in range(self._computed.layer + 1, layer + 1):
            self.values_VD = self._computed.advance_to(step)  # at once, for the one before it would stay until the end
            size = self.values_VD.nbytes
            if self._folder is not None and size >= SMALLEST and (self._every_layer or step == layer):
                _keep(self._folder, step, self.values_VD)


def _folder_of(cache: Path | None, identity: Mapping[str, Any]) -> Path | None:
    if cache is None:
        return None
    arithmetic = {"torch": torch.__version__, "processor": torch.backends.cpu.get_cpu_capability(), "code": _code()}
    key = hashlib.sha256(json.dumps([identity, arithmetic], sort_keys=True).encode()).hexdigest()
    return cache / key[:32]


@lru_cache
def _code() -> str:
    """Hash of the code that states come from, so that a newer version never reads an older one's."""
    digest = hashlib.sha256()
    package = resources.files("qkatlas.pipeline")
    models = sorted(entry.name for entry in (package / "models").iterdir() if entry.name.endswith(".py"))
    for source in (
        *(package / "circuit" / name for name in _OWN_CODE),
        *(package / "models" / name for name in models),
    ):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _file(folder: Path, layer: int) -> Path:
    return folder / f"layer-{layer:03d}.safetensors"


def _read(folder: Path, layer: int) -> np.ndarray | None:
    file = _file(folder, layer)
    try:
        with safe_open(file, framework="np") as stored:
            values_VD: np.ndarray = stored.get_tensor("states")
            expected = (stored.metadata() or {}).get("sha256")
        if hashlib.sha256(values_VD.data).hexdigest() != expected:
            return None
        os.utime(file)
    except (OSError, SafetensorError):
        return None
    return values_VD


def _keep(folder: Path, layer: int, values_VD: np.ndarray) -> None:
    file, part = _file(folder, layer), folder / f".{layer:03d}-{os.getpid()}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not _make_room(folder.parent, values_VD.nbytes):
            return
        digest = hashlib.sha256(values_VD.data).hexdigest()
        _write(part, values_VD, digest)
        part.replace(file)
    except (OSError, SafetensorError):
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _write(file: Path, values_VD: np.ndarray, digest: str) -> None:
    """Write a safetensors file as the library does, which makes a copy of the array on the way."""
    tensor = {"dtype": "F32", "shape": values_VD.shape, "data_offsets": (0, values_VD.nbytes)}
    header = json.dumps({"__metadata__": {"sha256": digest}, "states": tensor}).encode()
    header += b" " * (-len(header) % 8)
    with file.open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.write(values_VD.data)


def _make_room(cache: Path, size: int) -> bool:
    """Delete what was not used for longest until states of this size may be kept; False if they may not."""
    disk = shutil.disk_usage(cache)
    if size > LARGEST or disk.free - size < min(SPARE_SHARE * disk.total, SPARE_BYTES):
        return False
    for part in cache.glob("*/.*.part"):
        if time.time() - part.stat().st_mtime > _ABANDONED_SECONDS:
            part.unlink(missing_ok=True)
    files = sorted(((file.stat(), file) for file in cache.glob("*/*.safetensors")), key=lambda pair: pair[0].st_mtime)
    held = sum(stat.st_size for stat, _ in files)
    for stat, file in files:
        if held + size <= LARGEST:
            break
        file.unlink(missing_ok=True)
        held -= stat.st_size
    return True
