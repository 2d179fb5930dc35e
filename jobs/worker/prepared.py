"""What the rows of a head are scored from, and keys prepared for it: kept between the shards of one worker process."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qkatlas.jobs.loop.digest import digest_of
from qkatlas.pipeline.circuit.projection import HeadInputs
from qkatlas.pipeline.scoring.rows import PreparedKeys

_last: tuple[tuple[str, str], PreparedKeys] | None = None


@dataclass(frozen=True)
class Rows:
    """Queries and keys of every token, and what tells them from others."""

    inputs: HeadInputs
    made_from: str

    @classmethod
    def of(cls, inputs: HeadInputs) -> Rows:
        """Hash queries and keys, once."""
        return cls(inputs, digest_of(inputs))

    def identity(self) -> str:
        """SHA-256 of queries, keys and scale."""
        return self.made_from


def prepared_keys(made_from: str, keys_VH: np.ndarray, device: str) -> PreparedKeys:
    """Prepare keys, unless they are those of the shard before.

    Args:
        made_from: hash of what the keys were made from.
        keys_VH: float32 [V, H].
        device: `cpu` or `cuda`.

    Returns:
        The prepared keys; only the newest are held.
    """
    global _last
    if _last is None or _last[0] != (made_from, device):
        _last = None  # before the next are made: both at a time would be the worker's peak
        _last = (made_from, device), PreparedKeys(keys_VH, device=device)
    return _last[1]
