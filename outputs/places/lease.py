"""One driver a run in an object store: a lease that is renewed, since a store has no locks.

Each driver writes an object of its own and lists only then, so that of two drivers at least one sees the other; it
withdraws and tries again a little later. Ages are differences of the store's own times: clocks do not matter.
"""

from __future__ import annotations

import json
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from qkatlas.outputs.places.bucket import Bucket
from qkatlas.outputs.places.lock import RunIsBusyError

LEASE_SECONDS = 60.0
"""A lease that was not renewed for so long is that of a driver that was killed."""
BEAT_SECONDS = 12.0
"""How often a driver renews its own."""
_BEAT_PATIENCE = 2, 10.0
"""Attempts and seconds of silence: another beat comes soon, and the end of a driver waits for the last."""
_TRIES = 4
"""How often a driver applies: two that come at once both withdraw the first time."""
_ROUNDING_SECONDS = 1.0
"""Stores tell times in whole seconds; a lease counts as abandoned so much later than its driver gives up."""


class _Lease:
    """This driver's own object, renewed by a thread of its own."""

    def __init__(self, folder: Bucket, path: str) -> None:
        self._folder, self.path = folder, path
        self._content = json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode()
        self._lost = ""
        self._renewing = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._renewed = _now()

    def apply(self) -> None:
        """Write it for the first time."""
        self._renewed = _now()
        self._folder.write(self.path, self._content)

    def start(self) -> None:
        """Renew it from now on."""
        self._thread.start()

    def end(self) -> None:
        """Stop renewing it, and remove it."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
        folder = self._folder.impatient()
        with suppress(OSError):  # it runs out by itself
            if folder.size(self.path) is not None:
                folder.remove(self.path)

    def require_held(self, ask: bool) -> None:
        """Raise OSError unless this driver still holds it; ask the store if asked to."""
        if ask:
            self._renew(self._folder)
        if not self._lost and _now() - self._renewed > LEASE_SECONDS:
            self._lost = f"could not be renewed for {LEASE_SECONDS:.0f} s"
        if self._lost:
            raise OSError(f"the lease of this driver on {self._folder} {self._lost}; another may be at work")

    def _beat(self) -> None:
        folder = self._folder.impatient(_BEAT_PATIENCE)
        while not self._ended.wait(BEAT_SECONDS) and not self._lost:
            with suppress(OSError):  # tried again at the next beat, until the lease has run out
                self._renew(folder)

    def _renew(self, folder: Bucket) -> None:
        with self._renewing:
            begun = _now()
            if self._lost or begun - self._renewed > LEASE_SECONDS:
                return  # another may have it already, and would not see that it is taken back
            if folder.size(self.path) is None:
                self._lost = "was taken over"
                return
            folder.write(self.path, self._content)
            if _now() - self._renewed <= LEASE_SECONDS:
                self._renewed = begun


@contextmanager
def hold(folder: Bucket, place: str) -> Iterator[Callable[[bool], None]]:
    """Hold the lease of a run; see `Folder.exclusive`.

    Args:
        folder: the run's.
        place: folder in it for drivers' objects.
    """
    lease = _apply(folder, place)
    try:
        lease.start()
        yield lease.require_held
    finally:
        lease.end()


def is_held(folder: Bucket, place: str) -> bool:
    """Whether a driver renewed its lease lately, by this machine's clock: a reader writes nothing to compare with."""
    now = datetime.now(UTC)
    return any(
        info.mtime is not None and abs((now - info.mtime).total_seconds()) < LEASE_SECONDS
        for info in folder.listed(place).values()
    )


def _apply(folder: Bucket, place: str) -> _Lease:
    for left in reversed(range(_TRIES)):
        lease = _Lease(folder, f"{place}/{uuid.uuid4().hex}")
        try:
            lease.apply()
            ages = _ages(folder, place, lease.path)
            rivals = {path: age for path, age in ages.items() if age < LEASE_SECONDS + _ROUNDING_SECONDS}
            if not rivals:
                for abandoned in ages:
                    folder.remove(abandoned)
                return lease
            refusal = _refusal(folder, *min(rivals.items(), key=lambda rival: rival[1]))
        except BaseException:
            lease.end()
            raise
        lease.end()
        if left:
            time.sleep(random.uniform(0.1, 0.8))
    raise refusal


def _ages(folder: Bucket, place: str, own: str) -> dict[str, float]:
    """Seconds since the other drivers' leases were renewed, counted from the writing of our own."""
    found = folder.listed(place)
    if own not in found:
        raise OSError(f"{folder} does not list what was just written there; use a store with consistent listings")
    now = found[own].mtime
    return {path: (now - info.mtime).total_seconds() for path, info in found.items() if path != own}


def _refusal(folder: Bucket, path: str, age: float) -> RunIsBusyError:
    try:
        entry = json.loads(folder.read(path))
        holder = f"process {entry['pid']} on {entry['host']}"
    except (ValueError, KeyError, TypeError, OSError):  # who it is helps a person; that it is decides
        holder = "another process"
    rest = max(LEASE_SECONDS + _ROUNDING_SECONDS - age, 1)
    return RunIsBusyError(
        f"run {folder.name} is being computed by {holder}; wait for it, or stop it and submit again "
        f"(in {rest:.0f} s if it was killed)"
    )


def _now() -> float:
    """Seconds that go on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
