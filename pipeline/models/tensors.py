"""Where weights lie: the protocol of every store of tensors, and the names that wrappers of a model give them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np

_WRAPPERS = ("transformer.", "model.", "gpt_neox.", "module.", "base_model.")
"""Prefixes that models and what wraps them (data parallel training, adapters) put in front of a tensor's name."""

_INNER_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What compiled, sharded and checkpointed modules put in front of their part of a name, wherever it is."""


class Tensors(Protocol):
    """A store of named tensors, of which nothing but names and shapes has been read."""

    @property
    def source(self) -> str:
        """The store's name, for messages."""
        ...

    def names(self) -> Iterable[str]:
        """Every tensor's name, as stored."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, from the headers.

        Raises:
            ValueError: if it holds numbers of a kind that is not read.
        """
        ...

    def tensor(self, name: str) -> np.ndarray:
        """A tensor as a C-contiguous float32 array, read anew."""
        ...

    def identity(self) -> str:
        """SHA-256 of what is stored."""
        ...


def bare(name: str) -> str:
    """A tensor's name without the prefixes of the model and of what wraps it.

    Args:
        name: as stored, for example `_orig_mod.transformer.h.0.ln_1.weight`.

    Returns:
        For example `h.0.ln_1.weight`.
    """
    for wrapper in _INNER_WRAPPERS:
        name = name.replace(wrapper, "")
    while (stripped := next((name[len(w) :] for w in _WRAPPERS if name.startswith(w)), None)) is not None:
        name = stripped
    return name


class Names:
    """Which stored tensor each name of a model means.

    Args:
        tensors: the store.
        aliases: other bare names that a tensor may have -> the name the model calls it.

    Raises:
        ValueError: if the store holds weights that an adapter adds to the model's.
    """

    def __init__(self, tensors: Tensors, aliases: Mapping[str, str] | None = None) -> None:
        self._tensors = tensors
        self._stored: dict[str, list[str]] = {}
        for stored in tensors.names():
            if ".lora_" in stored:
                raise ValueError(
                    f"{tensors.source} holds weights of an adapter ({stored!r}), which are not added up; merge them "
                    "into the model with merge_and_unload() and save it again"
                )
            name = bare(stored)
            self._stored.setdefault((aliases or {}).get(name, name), []).append(stored)

    def __contains__(self, name: str) -> bool:
        return name in self._stored

    def find(self, name: str, shape: tuple[int, ...]) -> str:
        """The stored tensor that a name means; its values are read only where several could be meant.

        Args:
            name: the bare name.
            shape: what it has to be.

        Returns:
            Its name as stored.

        Raises:
            ValueError: if there is none, it has another shape, or several of different values have this name.
        """
        tensors, stored = self._tensors, self._stored.get(name)
        if stored is None:
            raise ValueError(self._missing(name))
        for place in stored:
            found = tensors.shape(place)
            if found != shape:
                raise ValueError(
                    f"tensor {place!r} of {tensors.source} has shape {list(found)}, but config.json says {list(shape)}"
                )
        first, *others = sorted(stored, key=lambda place: (len(place), place))
        for other in others:
            if not np.array_equal(tensors.tensor(first), tensors.tensor(other), equal_nan=True):
                raise ValueError(
                    f"{tensors.source} holds two different tensors {first!r} and {other!r}, and both are "
                    f"{name!r} without their prefixes; keep one of them"
                )
        return first

    def _missing(self, name: str) -> str:
        source = self._tensors.source
        for stored in self._tensors.names():
            if stored.endswith(f".{name}"):
                prefix = stored.removesuffix(name)
                return (
                    f"checkpoint {source} has no tensor {name!r}, only {stored!r}, whose prefix {prefix!r} is unknown; "
                    "save the model's own state_dict()"
                )
        return f"checkpoint {source} has no tensor {name!r}; it is not a whole checkpoint of its architecture"
