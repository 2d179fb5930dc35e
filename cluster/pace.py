"""How long items take, and from when on one takes too long."""

from __future__ import annotations

from collections import deque
from statistics import median


class Pace:
    """The seconds of the items that ended, from when they were handed out."""

    FACTOR = 2.0
    """An item is late when it takes longer than this many times the median of the others."""
    LEAST_SECONDS = 5.0
    """No item is late before."""
    LEAST_ITEMS = 3
    """Without as many that ended, none is late."""

    def __init__(self) -> None:
        # The last ones are enough, and a run of 10^5 shards asks as often as it has workers.
        self._seconds: deque[float] = deque(maxlen=1024)

    def add(self, seconds: float) -> None:
        """An item ended."""
        self._seconds.append(seconds)

    def is_late(self, seconds: float) -> bool:
        """Whether an item that has taken so long, and has not ended, is a straggler."""
        if len(self._seconds) < self.LEAST_ITEMS:
            return False
        return seconds > max(self.LEAST_SECONDS, self.FACTOR * median(self._seconds))
