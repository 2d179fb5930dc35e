"""Tensors of a Hugging Face directory: one safetensors file, or several with an index."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from qkatlas.pipeline.models.config import read_json

_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies: its file, its shape and its kind of number."""

    file: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class SafetensorsDirectory:
    """The tensors of a directory.

    Attributes:
        path: the directory.
        files: the weights files in it.
        stored: a tensor's name -> where it lies.
    """

    path: Path
    files: tuple[str, ...]
    stored: Mapping[str, StoredTensor]

    @classmethod
    def open(cls, path: Path) -> SafetensorsDirectory:
        """Read the headers of a directory's weights files.

        Args:
            path: the directory.

        Raises:
            ValueError: if a file is missing or unreadable, or two files hold different tensors of one name.
        """
        files = _weight_files(path)
        stored: dict[str, StoredTensor] = {}
        for file in files:
            for name, found in _header(path, file).items():
                known = stored.setdefault(name, found)
                if known is not found and not (
                    known.shape == found.shape
                    and torch.equal(_read(path, known, name), _read(path, found, name))  # never chosen from silently
                ):
                    raise ValueError(
                        f"{path} holds two different tensors {name!r}, in {known.file} and in {found.file}; "
                        "copy it again"
                    )
        return cls(path, tuple(files), stored)

    @property
    def source(self) -> str:
        """See `Tensors.source`."""
        return str(self.path)

    def names(self) -> Iterable[str]:
        """See `Tensors.names`."""
        return self.stored

    def shape(self, name: str) -> tuple[int, ...]:
        """See `Tensors.shape`."""
        found = self.stored[name]
        if found.dtype not in _FLOATS:
            raise ValueError(f"tensor {name!r} of {self.path} holds {found.dtype} numbers; use a float checkpoint")
        return found.shape

    def tensor(self, name: str) -> np.ndarray:
        """See `Tensors.tensor`."""
        array: np.ndarray = _read(self.path, self.stored[name], name).to(torch.float32).contiguous().numpy()
        return array

    def file_hashes(self) -> dict[str, str]:
        """SHA-256 of each weights file, as `sha256sum` and the Hugging Face hub print it."""
        with ThreadPoolExecutor(2) as pool:
            digests = pool.map(lambda file: file_sha256(self.path / file), self.files)
            return dict(zip(self.files, digests, strict=True))

    def identity(self) -> str:
        """SHA-256 of the weights file, or of the list of several files' hashes."""
        hashes = self.file_hashes()
        if len(hashes) == 1:
            return next(iter(hashes.values()))
        listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes.items()))
        return hashlib.sha256(listing.encode()).hexdigest()


def file_sha256(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _header(path: Path, file: str) -> dict[str, StoredTensor]:
    try:
        with safe_open(path / file, framework="pt") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 - it has no iterator
            return {
                name: StoredTensor(file, tuple(entry.get_shape()), entry.get_dtype()) for name, entry in slices.items()
            }
    except (SafetensorError, OSError) as error:
        if not os.access(path / file, os.R_OK):
            raise ValueError(f"weights file {file} of {path} may not be read by this user") from error
        raise ValueError(f"weights file {file} of {path} cannot be read: {error}; copy it again") from error


def _read(path: Path, place: StoredTensor, name: str) -> torch.Tensor:
    with safe_open(path / place.file, framework="pt") as tensors:
        tensor: torch.Tensor = tensors.get_tensor(name)
    return tensor


def _weight_files(path: Path) -> list[str]:
    if (path / "model.safetensors").is_file():
        return ["model.safetensors"]
    if (path / "model.safetensors.index.json").is_file():
        weight_map = read_json(path / "model.safetensors.index.json", path).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
            raise ValueError(f"model.safetensors.index.json of {path} does not map tensors to files; copy it again")
        files = sorted(set(weight_map.values()))
        missing = [file for file in files if "/" in file or not (path / file).is_file()]
        if files and not missing:
            return files
        raise ValueError(f"{path} lacks weights files that its index names: {', '.join(missing) or 'it names none'}")
    if any(path.glob("*.bin")) or any(path.glob("*.pt")) or any(path.glob("*.pth")):
        raise ValueError(
            f"{path} has only pickle weights, which can run code and are not read; "
            "save it again as safetensors with model.save_pretrained(directory)"
        )
    raise ValueError(f"{path} has no weights: model.safetensors is missing; copy it there")
