"""A checkpoint on disk: its architecture, its weights as float32 arrays, and what identifies it."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from qkatlas.pipeline.models.architecture import Architecture
from qkatlas.pipeline.models.config import Config
from qkatlas.pipeline.models.families import architecture_of, family_of
from qkatlas.pipeline.models.family import UNEMBEDDING
from qkatlas.pipeline.models.gguf import GgufFile
from qkatlas.pipeline.models.safetensors import SafetensorsDirectory
from qkatlas.pipeline.models.tensors import Names, Tensors


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: where it is, what it is, and where each tensor lies.

    Attributes:
        path: its directory or file.
        architecture: the model's shape.
        tensors: the store of its weights.
        places: a tensor's name in the family, without prefixes -> its name in the store.
    """

    path: Path
    architecture: Architecture
    tensors: Tensors
    places: Mapping[str, str]

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """Open a local Hugging Face directory with safetensors weights, or a GGUF file.

        Args:
            path: directory with config.json and model.safetensors (or its sharded form), a GGUF file, or a directory
                with one and without config.json.

        Returns:
            The checkpoint; of its weights only those have been read that are stored twice.

        Raises:
            ValueError: if a file is missing, unreadable, or the architecture is not supported.
        """
        file = _gguf_file(path)
        if file is not None:
            tensors = GgufFile.open(file)
            return cls.of(path, tensors.architecture, tensors)
        return cls.of(path, read_architecture(path), SafetensorsDirectory.open(path))

    @classmethod
    def of(cls, path: Path, architecture: Architecture, tensors: Tensors) -> Checkpoint:
        """Find every tensor that an architecture is made of.

        The unembedding is what transformers takes it for: of a tied model either of the two names will do, and two
        matrices that differ are not tied, whatever the configuration says.

        Args:
            path: where the model is.
            architecture: what its configuration says.
            tensors: its weights.

        Raises:
            ValueError: if a tensor is missing, or is not what the configuration says.
        """
        a, family = architecture, family_of(architecture)
        names = Names(tensors, family.aliases)
        places: dict[str, str] = {}
        matrix = a.vocab_size, a.d_model
        if UNEMBEDDING in names:
            places[UNEMBEDDING] = names.find(UNEMBEDDING, matrix)
        for name, shape in family.shapes(a):
            if name == family.embedding and a.tied and name not in names and UNEMBEDDING in places:
                places[name] = places.pop(UNEMBEDDING)
                continue
            places[name] = names.find(name, shape)
        if a.tied and UNEMBEDDING in places:
            embedding, own = (tensors.tensor(places[name]) for name in (family.embedding, UNEMBEDDING))
            if np.array_equal(embedding, own):
                del places[UNEMBEDDING]
            else:
                a = replace(a, tied=False)
        return cls(path, a, tensors, places)

    def tensor(self, name: str) -> np.ndarray:
        """Read one tensor as float32.

        Args:
            name: its name in the family, without prefixes, for example `h.0.attn.c_attn.weight`.

        Returns:
            A C-contiguous float32 array of the stored shape (GPT-2's Conv1D weights are [in, out]).
        """
        return self.tensors.tensor(self.places[name])

    def tensor_names(self) -> list[str]:
        """Names of all tensors that the model is made of."""
        return list(self.places)

    def require_unembedding(self, purpose: str) -> None:
        """Check that the model gives logits.

        Args:
            purpose: what needs them, and how to do without.

        Raises:
            ValueError: if its embedding is not tied and no unembedding is stored.
        """
        if not self.architecture.tied and UNEMBEDDING not in self.places:
            raise ValueError(
                f"checkpoint {self.path} has no tensor {UNEMBEDDING!r} and its embeddings are not tied, so that it "
                f"gives no logits; {purpose}"
            )

    def require_finite(self) -> None:
        """Check that no weight is NaN or infinite.

        Raises:
            ValueError: naming the first bad tensor (by name) and the place of its first bad value.
        """

        def first_bad(name: str) -> str | None:
            values = self.tensor(name)
            # A float32 sum of squares may overflow for finite weights, so the values themselves are tested.
            finite = np.isfinite(values)
            if finite.all():
                return None
            place = np.unravel_index(int(np.argmin(finite)), values.shape)
            return f"{name}[{', '.join(map(str, place))}] is {values[place]}"

        with ThreadPoolExecutor(2) as pool:
            for bad in pool.map(first_bad, sorted(self.places)):
                if bad is not None:
                    raise ValueError(f"checkpoint {self.path} has a weight that is not finite: {bad}; repair it first")

    def identity(self) -> dict[str, Any]:
        """What of the model changes results: its architecture and its weights' hash."""
        return {"architecture": self.architecture.identity(), "weights_sha256": self.tensors.identity()}


def read_architecture(path: Path) -> Architecture:
    """What a local model directory or GGUF file says of itself; no weights are read.

    Raises:
        ValueError: if a file is missing, unreadable, or the architecture is not supported.
    """
    file = _gguf_file(path)
    if file is not None:
        return GgufFile.open(file).architecture
    if not path.is_dir():
        raise ValueError(f"model directory {str(path)!r} does not exist; give a directory with config.json")
    return architecture_of(Config.read(path))


def _gguf_file(path: Path) -> Path | None:
    """The GGUF file that a path means, if it means one.

    Raises:
        ValueError: if a directory holds several.
    """
    if path.is_file() and path.suffix == ".gguf":
        return path
    if not path.is_dir() or (path / "config.json").exists():
        return None
    files = sorted(file for file in path.glob("*.gguf") if file.is_file())
    if len(files) > 1:
        raise ValueError(f"{path} holds several models: {', '.join(file.name for file in files)}; name one")
    return files[0] if files else None
