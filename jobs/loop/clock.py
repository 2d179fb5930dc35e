"""Wall-clock seconds of the stages of a submission."""

from __future__ import annotations

import time


class Clock:
    """Splits elapsed time into named stages; the first begins when the clock is made."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """End the stage that was running, and add its seconds to the name."""
        now = time.perf_counter()
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + now - self._last, 3)
        self._last = now

    def restart(self) -> dict[str, float]:
        """Begin anew; the seconds of the stages until now."""
        seconds, self.seconds = self.seconds, {}
        self._last = time.perf_counter()
        return seconds
