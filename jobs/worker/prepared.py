"""What the rows of a head are scored from, and keys prepared for it: kept between the shards of one worker process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from qkatlas.jobs.loop.digest import digest_of
from qkatlas.pipeline.scoring.rows import PreparedKeys

Inputs = TypeVar("Inputs")

_newest: dict[str, tuple[tuple[str, str], PreparedKeys]] = {}


@dataclass(frozen=True)
class Rows(Generic[Inputs]):
    """What the rows of every token are scored from, such as queries and keys, and what tells it from others."""

    inputs: Inputs
    made_from: str

    @classmethod
    def of(cls, inputs: Inputs) -> Rows[Inputs]:
        """Hash them, once."""
        return cls(inputs, digest_of(inputs))

    def identity(self) -> str:
        """SHA-256 of the inputs."""
        return self.made_from


def prepared_keys(made_from: str, keys_VH: np.ndarray, device: str, *, use: str = "keys") -> PreparedKeys:
    """Prepare keys, unless they are those of the shard before.

    Args:
        made_from: hash of what the keys were made from.
        keys_VH: float32 [V, H].
        device: `cpu` or `cuda`.
        use: what they are for, where a shard needs several.

    Returns:
        The prepared keys; only the newest of each use are held.
    """
    if use not in _newest or _newest[use][0] != (made_from, device):
        _newest.pop(use, None)  # before the next are made: both at a time would be the worker's peak
        _newest[use] = (made_from, device), PreparedKeys(keys_VH, device=device)
    return _newest[use][1]
