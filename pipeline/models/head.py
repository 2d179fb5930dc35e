"""Names of attention heads: `L1H5` is layer 1, head 5, both counted from 0."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PATTERN = re.compile(r"L(0|[1-9]\d{0,4})H(0|[1-9]\d{0,4})")


@dataclass(frozen=True, order=True)
class Head:
    """One attention head of a model, by its layer and its place in the layer, both from 0."""

    layer: int
    index: int

    @classmethod
    def parse(cls, text: str) -> Head:
        """Read a head's name.

        Args:
            text: a name such as `L1H5`.

        Returns:
            The head.

        Raises:
            ValueError: if the text is not a head's name.
        """
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise ValueError(f"head {text!r} is malformed; write it as L<layer>H<head>, for example L1H5")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"L{self.layer}H{self.index}"

    def require_inside(self, n_layers: int, n_heads: int) -> None:
        """Check that a model has this head.

        Args:
            n_layers: layers of the model.
            n_heads: heads in each layer.

        Raises:
            ValueError: if the layer or the head is past the model's last one.
        """
        if self.layer >= n_layers or self.index >= n_heads:
            raise ValueError(
                f"head {self} is outside the model, which has {n_layers} layers of {n_heads} heads; "
                f"choose one from L0H0 to L{n_layers - 1}H{n_heads - 1}"
            )
