"""The families that are known, by name and by what a configuration says."""

from __future__ import annotations

from collections.abc import Mapping

from qkatlas.pipeline.models.architecture import Architecture
from qkatlas.pipeline.models.config import Config
from qkatlas.pipeline.models.family import Family
from qkatlas.pipeline.models.gpt2 import Gpt2
from qkatlas.pipeline.models.llama import Llama
from qkatlas.pipeline.models.neox import NeoX

FAMILIES: Mapping[str, Family] = {family.name: family for family in (Gpt2(), Llama(), NeoX())}
"""A family's name -> the family."""


def family_of(architecture: Architecture) -> Family:
    """The family that an architecture names."""
    return FAMILIES[architecture.family]


def architecture_of(config: Config) -> Architecture:
    """Read a configuration of any family.

    Args:
        config: the configuration.

    Raises:
        ValueError: if no family knows its architecture, it is malformed, or asks for what is not computed exactly.
    """
    if config.values.get("quantization_config") is not None:
        raise ValueError(f"{config.source} is quantised, which is not read; use its float checkpoint")
    known = {
        kind: family for family in FAMILIES.values() for kind, classes in family.classes.items()
        if (config.model_type == kind if config.values.get("model_type") is not None else config.class_name in classes)
    }  # fmt: skip
    if not known:
        named = config.class_name or config.values.get("model_type")
        supported = ", ".join(sorted(kind for family in FAMILIES.values() for kind in family.classes))
        raise ValueError(
            f"architecture {named!r} (model_type {config.values.get('model_type')!r}) of {config.source} is not "
            f"supported; use a checkpoint of a model_type among: {supported}"
        )
    (family,) = known.values()
    architecture = family.architecture(config)
    architecture.require_possible(config.source)
    return architecture
