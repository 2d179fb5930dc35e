"""cfg.json of a sparse autoencoder as SAELens writes it, in both generations, and what of it changes numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qkatlas.pipeline.features.kinds import (
    ARCHITECTURES,
    AVERAGE,
    NONE,
    NORMALISATIONS,
    RESIDUAL,
    STANDARD,
    TOPK,
    Z,
)
from qkatlas.pipeline.models.config import Config, read_json

CONFIG_FILE = "cfg.json"

_PLACE = re.compile(r"blocks\.(\d{1,5})\.(attn\.hook_z|hook_resid_pre|hook_resid_post)", re.ASCII)

_OLD_NAMES = {
    "hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "activation_fn_str": "activation_fn",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DictionaryConfig:
    """What of a configuration changes numbers, the same for both generations.

    Attributes:
        architecture: one of ARCHITECTURES.
        reads: `z`, the mixed values of a layer's heads side by side, or `residual`, what enters a layer.
        layer: the layer whose heads write it, or read it.
        d_in: width of what is encoded, X.
        d_sae: features, F.
        k: features that are kept at a position, of `topk` alone.
        subtracts: whether the decoder's bias is taken off what is encoded.
        normalise: one of NORMALISATIONS.
        by_decoder_norm: whether activations are multiplied by the norm of the feature's decoder row, and divided by it
            before they are decoded; of `topk` alone.
    """

    architecture: str
    reads: str
    layer: int
    d_in: int
    d_sae: int
    k: int | None = None
    subtracts: bool = True
    normalise: str = NONE
    by_decoder_norm: bool = False

    def identity(self) -> dict[str, Any]:
        """What of it is part of a run's identity."""
        return asdict(self)


def read_config(path: Path) -> DictionaryConfig:
    """Read cfg.json of a dictionary: one with `metadata`, or the older flat one.

    Args:
        path: its directory.

    Raises:
        ValueError: if there is none, it is malformed, or says something that is not computed; one line that names it.
    """
    written = read_json(path / CONFIG_FILE, path)
    nested = written.get("metadata")
    if nested is not None and not isinstance(nested, dict):
        raise ValueError(f"{CONFIG_FILE} of {path} is malformed: metadata is no object; copy it again")
    flat = {_OLD_NAMES.get(name, name): value for name, value in {**(nested or {}), **written}.items()}
    settings = Config(flat, str(path))
    try:
        return _config(settings, flat, path)
    except ValueError as error:
        raise ValueError(str(error).replace("config.json of", f"{CONFIG_FILE} of")) from error


def _config(settings: Config, flat: Mapping[str, Any], path: Path) -> DictionaryConfig:
    architecture = settings.text("architecture", STANDARD)
    function = settings.text("activation_fn", "topk" if architecture == TOPK else "relu")
    arguments = settings.section("activation_fn_kwargs")
    if architecture == STANDARD and function == TOPK:  # as the older generation has it
        architecture = TOPK
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"{CONFIG_FILE} of {path} says architecture {architecture!r}, which is not read; choose one of "
            f"{', '.join(ARCHITECTURES)} (batchtopk and matryoshka_batchtopk are saved for use as jumprelu)"
        )
    if function != (TOPK if architecture == TOPK else "relu"):
        raise ValueError(
            f"{CONFIG_FILE} of {path} says activation_fn {function!r} of a {architecture} dictionary, which is not "
            "read; relu and topk are"
        )
    reads, layer = _place(settings, flat, path)
    k = None
    if architecture == TOPK:
        k = Config({"k": flat.get("k", arguments.get("k"))}, str(path)).integer("k", None)
    config = DictionaryConfig(
        architecture=architecture,
        reads=reads,
        layer=layer,
        d_in=settings.integer("d_in", None),
        d_sae=settings.integer("d_sae", None),
        k=k,
        subtracts=settings.flag("apply_b_dec_to_input", True),
        normalise=_normalisation(flat, path),
        by_decoder_norm=architecture == TOPK and settings.flag("rescale_acts_by_decoder_norm", False),
    )
    for name in ("d_in", "d_sae", "k"):
        size = getattr(config, name)
        if size is not None and not 1 <= size < 2**31:
            raise ValueError(f"{CONFIG_FILE} of {path} says {name} {size}, which is impossible; copy it again")
    if k is not None and k > config.d_sae:
        raise ValueError(f"{CONFIG_FILE} of {path} says k {k}, more than its {config.d_sae} features; copy it again")
    return config


def _place(settings: Config, flat: Mapping[str, Any], path: Path) -> tuple[str, int]:
    named = settings.text("hook_name", "")
    found = _PLACE.fullmatch(named)
    if found is None:
        raise ValueError(
            f"{CONFIG_FILE} of {path} says hook_name {named!r}, which is not read; dictionaries of "
            "blocks.L.attn.hook_z, blocks.L.hook_resid_pre and blocks.L.hook_resid_post are"
        )
    if flat.get("hook_head_index") is not None:
        raise ValueError(
            f"{CONFIG_FILE} of {path} says hook_head_index {flat['hook_head_index']!r}: a dictionary of one head is "
            "not read; give one of all heads of a layer"
        )
    layer = int(found[1])
    if found[2] == "attn.hook_z":
        return Z, layer
    return RESIDUAL, layer + (found[2] == "hook_resid_post")


def _normalisation(flat: Mapping[str, Any], path: Path) -> str:
    named = flat.get("normalize_activations", NONE)
    if isinstance(named, bool):  # before there were several kinds
        named = AVERAGE if named else NONE
    if named not in NORMALISATIONS:
        raise ValueError(
            f"{CONFIG_FILE} of {path} says normalize_activations {named!r}, which is not read; choose one of "
            f"{', '.join(NORMALISATIONS)}"
        )
    # What one average scaled in training is in the weights by the time a dictionary is saved: nothing is left to do.
    return NONE if named == AVERAGE else str(named)
