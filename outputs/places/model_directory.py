"""Writing a checkpoint, or several dictionaries of features, as one directory, whole or not at all."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file


def write_model_directory(
    folder: Path,
    *,
    config: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    texts: Mapping[str, str],
) -> None:
    """Write config.json, model.safetensors and further text files under a name that appears when all are there.

    Args:
        folder: the directory; must not exist, or be empty.
        config: content of config.json.
        tensors: weights by their Hugging Face names.
        texts: further files: name -> content.

    Raises:
        FileExistsError: if the directory holds files.
        OSError: if it cannot be written; nothing is left.
    """
    texts = {"config.json": json.dumps(config, indent=2) + "\n", **texts}
    write_directory(folder, texts=texts, tensors={"model.safetensors": tensors})


def write_directory(folder: Path, *, texts: Mapping[str, str], tensors: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Write files of text and of tensors under a name that appears when all are there.

    Args:
        folder: the directory; must not exist, or be empty.
        texts: path in it -> content.
        tensors: path in it -> tensors by name.

    Raises:
        FileExistsError: if the directory holds files.
        OSError: if it cannot be written; nothing is left.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not an empty directory")
    folder.parent.mkdir(parents=True, exist_ok=True)
    growing = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    growing.mkdir()
    try:
        for name in (*texts, *tensors):
            (growing / name).parent.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (growing / name).write_text(text, encoding="utf-8")
        for name, values in tensors.items():
            save_file(dict(values), growing / name, metadata={"format": "pt"})
        growing.replace(folder)
    finally:
        shutil.rmtree(growing, ignore_errors=True)
