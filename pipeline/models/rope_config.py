"""Rotary positions as configurations of transformers write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qkatlas.pipeline.models.config import Config
from qkatlas.pipeline.models.rotary import SCALINGS, Rotary

_SETTINGS: Mapping[str, Mapping[str, float | None]] = {
    "default": {},
    "dynamic": {},  # another base beyond the context alone, which no offset reaches
    "linear": {"factor": None},
    "llama3": {"factor": None, "low_freq_factor": None, "high_freq_factor": None},
    "yarn": {"factor": None, "attention_factor": 0, "beta_fast": 0, "beta_slow": 0, "mscale": 0, "mscale_all_dim": 0},
}
"""A scaling -> its settings, None for one that has to be given."""


def read_rotary(
    values: dict[str, Any], source: str, *, theta: float, d_head: int, n_ctx: int, partial: float = 1.0
) -> Rotary:
    """Read the object `rope_parameters`, or `rope_scaling` of older configurations.

    Args:
        values: the object.
        source: the checkpoint's name, for messages.
        theta: base of the frequencies, where the object has none.
        d_head: width of a head.
        n_ctx: positions the model reads.
        partial: share of a head that is turned, where the object has none.

    Raises:
        ValueError: if it is malformed, or asks for what is not computed exactly.
    """
    config = Config(values, f"{source} (rope_parameters)")
    scaling = config.text("rope_type", config.text("type", "default"))
    if scaling not in SCALINGS:
        raise ValueError(f"rope_type {scaling!r} of {source} is not supported; supported are {', '.join(SCALINGS)}")
    theta = config.number("rope_theta", theta, whole=True)
    partial = config.number("partial_rotary_factor", partial, whole=True)
    width = int(d_head * partial)
    if theta <= 1 or 2 * -(-width // 2) > d_head or (scaling == "yarn" and width % 2):
        raise ValueError(
            f"config.json of {source} has impossible rotary positions: theta {theta}, {width} of {d_head} numbers"
        )
    settings: dict[str, float] = {}
    for name, needed in _SETTINGS[scaling].items():
        if values.get(name) is not None or needed is None:
            settings[name] = config.number(name, None, whole=True)
    if settings.get("factor", 1.0) <= 0 or settings.get("high_freq_factor", 2) == settings.get("low_freq_factor", 1):
        raise ValueError(f"config.json of {source} has impossible rotary positions: {settings}")
    if scaling in ("llama3", "yarn"):
        settings["original_max_position_embeddings"] = config.number(
            "original_max_position_embeddings", float(n_ctx), whole=True
        )
    if scaling == "yarn":
        settings["truncate"] = float(config.flag("truncate", True))
    if scaling == "dynamic":
        scaling = "default"
    return Rotary(width=width, theta=theta, scaling=scaling, settings=tuple(sorted(settings.items())))
