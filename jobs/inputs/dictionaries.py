"""The dictionaries of features that a request means: a directory's, or those of a planted model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from qkatlas.jobs.inputs.resolve import PLANTED, planted_folder
from qkatlas.outputs.places.model_directory import write_directory
from qkatlas.outputs.places.open import at_home
from qkatlas.pipeline.features.config import CONFIG_FILE
from qkatlas.pipeline.features.dictionary import WEIGHTS_FILE, Dictionary, open_dictionaries
from qkatlas.pipeline.planted.checkpoint import PlantedDesign, plant
from qkatlas.pipeline.planted.features import PlantedDictionary, plant_dictionaries

TRUTH_FILE = "truth.json"


def dictionaries_of(directory: str | None, model: str, say: Callable[[str], None]) -> list[Dictionary]:
    """Open the dictionaries that a request means.

    Args:
        directory: a SAELens directory, or one of several; None = those of a planted model.
        model: what the user called the model.
        say: told what takes long.

    Raises:
        ValueError: if there are none, or one cannot be read.
    """
    return open_dictionaries(dictionary_folder(directory, model, say))


def dictionary_folder(directory: str | None, model: str, say: Callable[[str], None]) -> Path:
    """Where these dictionaries lie; arguments and errors as of `dictionaries_of`."""
    if directory is not None:
        return Path(at_home(directory))
    if model not in PLANTED:
        raise ValueError(
            f"--model {model} comes without dictionaries of features; give SAE_DIR, a SAELens directory with "
            f"{CONFIG_FILE} and {WEIGHTS_FILE}, or --model planted"
        )
    design = PlantedDesign(size=PLANTED[model])

    def write(folder: Path) -> None:
        write_dictionaries(plant_dictionaries(plant(design)), folder)

    return planted_folder(design, "dictionaries", write, say, ending="-features")


def write_dictionaries(planted: Sequence[PlantedDictionary], folder: Path) -> None:
    """Write planted dictionaries as SAELens directories, each with its truth.json.

    Raises:
        OSError: if the directory holds files or cannot be written.
    """
    texts = {}
    for one in planted:
        texts[f"{one.name}/{CONFIG_FILE}"] = json.dumps(one.config, indent=1) + "\n"
        texts[f"{one.name}/{TRUTH_FILE}"] = json.dumps(one.truth, indent=1) + "\n"
    write_directory(folder, texts=texts, tensors={f"{one.name}/{WEIGHTS_FILE}": one.tensors for one in planted})
