"""Keys prepared for scoring, kept between the shards that one worker process computes."""

from __future__ import annotations

import numpy as np

from qkatlas.pipeline.scoring.engine import PreparedKeys

_last: tuple[tuple[str, str], PreparedKeys] | None = None


def prepared_keys(digest: str, keys_VH: np.ndarray, device: str) -> PreparedKeys:
    """Prepare keys, unless they are those of the shard before.

    Args:
        digest: hash of what the keys were made from.
        keys_VH: float32 [V, H].
        device: `cpu` or `cuda`.

    Returns:
        The prepared keys; only the newest are held.
    """
    global _last
    if _last is None or _last[0] != (digest, device):
        _last = None  # before the next are made: both at a time would be the worker's peak
        _last = (digest, device), PreparedKeys(keys_VH, device=device)
    return _last[1]
