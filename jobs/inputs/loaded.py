"""A model that a program holds in memory, and where its tokenizer is."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qkatlas.jobs.inputs.cache import cache_folder
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.resolve import HUB_FILES, resolve
from qkatlas.pipeline.models.checkpoint import Checkpoint
from qkatlas.pipeline.models.memory import loaded_checkpoint, unwrapped

_NO_WEIGHTS = [name for name in HUB_FILES if "safetensors" not in name]


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model in memory.

    Attributes:
        model: a transformers model, or a TransformerBridge.
        tokenizer: its tokenizer, or the name, directory or GGUF file of a model that has the same; None = the bridge's
            own, or the one beside the files that the model was loaded from.
    """

    model: Any
    tokenizer: Any = None

    @property
    def name(self) -> str:
        """What the model is called: what it was loaded from, if that is known, and its class."""
        module = unwrapped(self.model)
        origin = str(getattr(module, "name_or_path", "") or "")
        return f"{origin} ({type(module).__name__} in memory)" if origin else f"{type(module).__name__} in memory"

    def checkpoint(self, say: Callable[[str], None]) -> Checkpoint:
        """The weights, with the tokenizer's place.

        Args:
            say: told what takes long.

        Raises:
            ValueError: if the model is not supported, or there is no such tokenizer.
        """
        return loaded_checkpoint(self.model, self._tokenizer_place(say))

    def open(self, say: Callable[[str], None]) -> Model:
        """Identify the model by its weights and tokens, as if it were read from files.

        Args:
            say: told what takes long.

        Raises:
            ValueError: if the model is not supported, not finite, or there is no such tokenizer.
        """
        model = Model.of(self.name, self.checkpoint(say), say)
        if not model.vocabulary.has_tokenizer and model.vocabulary.doubt is None:
            say(f"{self.name} comes without a tokenizer: tokens have no texts; give tokenizer=")
        return model

    def _tokenizer_place(self, say: Callable[[str], None]) -> Path:
        tokenizer = self.tokenizer if self.tokenizer is not None else getattr(self.model, "tokenizer", None)
        if isinstance(tokenizer, str | os.PathLike):
            return resolve(os.fspath(tokenizer), say)
        if tokenizer is not None:
            return _saved(tokenizer)
        module = unwrapped(self.model)
        origin = str(getattr(module, "name_or_path", "") or "")
        place = Path(origin)
        if origin and place.is_dir():
            files = sorted(place.glob("*.gguf"))
            return files[0] if len(files) == 1 and not (place / "config.json").exists() else place
        if origin and origin.count("/") <= 1 and (found := _from_hub(origin)) is not None:
            return found
        return Path(f"{type(module).__name__} in memory")  # it does not exist, and neither do tokenizer files in it


def _saved(tokenizer: Any) -> Path:
    """Where a tokenizer's files are kept, by their content.

    Raises:
        ValueError: if it cannot be saved, or there is no cache.
    """
    if not hasattr(tokenizer, "save_pretrained"):
        raise ValueError(
            f"tokenizer {type(tokenizer).__name__} is none of transformers; give one, or the name or directory of a "
            "model that has it"
        )
    folder = cache_folder() / "tokenizers"
    folder.mkdir(parents=True, exist_ok=True)
    growing = Path(tempfile.mkdtemp(dir=folder))
    try:
        tokenizer.save_pretrained(growing)
        digest = hashlib.sha256()
        for file in sorted(growing.rglob("*")):
            if file.is_file():
                digest.update(f"{file.name} {file.stat().st_size}\n".encode() + file.read_bytes())
        place = folder / digest.hexdigest()[:16]
        try:
            growing.rename(place)
        except OSError:
            if not place.exists():  # else it was kept before, by this process or another
                raise
    finally:
        shutil.rmtree(growing, ignore_errors=True)
    return place


def _from_hub(name: str) -> Path | None:
    """The tokenizer's files of a hub name that a model was loaded from; None where they cannot be had."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=_NO_WEIGHTS))
    except (HFValidationError, LocalEntryNotFoundError, HfHubHTTPError, OSError):
        return None
