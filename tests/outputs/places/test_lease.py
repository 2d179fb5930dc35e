"""Leases: never two drivers of a run, and none that is dead stops a resume for long."""

from __future__ import annotations

import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
from support.object_store import Server

from qkatlas.outputs.places import bucket, lease
from qkatlas.outputs.places.lock import RunIsBusyError
from qkatlas.outputs.places.object_folder import ObjectFolder
from qkatlas.outputs.runs.run import Run


@pytest.fixture
def folder(store_server: Server) -> ObjectFolder:
    return ObjectFolder(store_server.uri(f"atlas/leases/{uuid.uuid4().hex}"))


def key_of(folder: ObjectFolder) -> str:
    (path,) = folder.listed("_state/drivers")
    return f"{folder.path.partition('/')[2]}/{path}"


def test_an_abandoned_lease_is_taken_over_and_its_driver_stops(store_server: Server, folder: ObjectFolder) -> None:
    with folder.exclusive("_state") as first:
        store_server.age("atlas", key_of(folder), lease.LEASE_SECONDS + 5)
        assert not folder.is_driven("_state")
        with folder.exclusive("_state") as second:
            second(True)
            with pytest.raises(OSError, match="was taken over; another may be at work"):
                first(True)
            with pytest.raises(OSError, match="was taken over"):
                first(False)
        assert folder.listed("_state/drivers") == {}


@pytest.mark.slow
def test_a_refusal_says_when_a_killed_driver_is_out_of_the_way(store_server: Server, folder: ObjectFolder) -> None:
    with folder.exclusive("_state"):
        store_server.age("atlas", key_of(folder), 40)
        with pytest.raises(RunIsBusyError, match=r"in (1[5-9]|20|21) s if it was killed"), folder.exclusive("_state"):
            pass


def test_a_lease_that_cannot_be_renewed_is_lost(
    store_server: Server, folder: ObjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10_000, 40))
    monkeypatch.setattr(lease, "_now", lambda: float(next(clock)))
    with folder.exclusive("_state") as held:
        held(False)
        with pytest.raises(OSError, match="could not be renewed for 60 s"):
            held(False)


def test_a_driver_that_lost_its_lease_writes_nothing(store_server: Server, folder: ObjectFolder) -> None:
    found = Run(folder)
    with found.driving():
        store_server.age("atlas", key_of(folder), lease.LEASE_SECONDS + 5)
        with folder.exclusive("_state"):
            with pytest.raises(OSError, match="was taken over"):
                found.reopen()
            with pytest.raises(OSError, match="was taken over"):
                found.note_failure("a", "trace")
            with pytest.raises(OSError, match="was taken over"):
                found.write_table("tokens.parquet", pa.table({"a": [1]}))
            assert list(folder.listed("")) == [next(iter(folder.listed("_state/drivers")))]


def test_an_interrupt_while_a_driver_applies_leaves_no_lease(
    folder: ObjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = ObjectFolder.write

    def interrupted(self: ObjectFolder, path: str, content: bytes) -> None:
        write(self, path, content)
        raise KeyboardInterrupt

    monkeypatch.setattr(ObjectFolder, "write", interrupted)
    with pytest.raises(KeyboardInterrupt), folder.exclusive("_state"):
        pass
    assert folder.listed("_state/drivers") == {}


@pytest.mark.slow
def test_the_end_of_a_driver_does_not_wait_long_for_a_silent_store(
    store_server: Server, folder: ObjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "_IMPATIENT", (1, 1.0))
    asked: list[str] = []

    def silent(method: str, target: str) -> float:
        asked.append(method)
        return 5.0

    started = time.monotonic()
    with folder.exclusive("_state"):
        store_server.fault = silent
    store_server.fault = None
    assert asked
    assert time.monotonic() - started < 4.5


def test_the_heartbeat_renews_and_notices_a_loss(
    store_server: Server, folder: ObjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)
    renewed = threading.Event()
    write = ObjectFolder.write

    def noted(self: ObjectFolder, path: str, content: bytes) -> None:
        write(self, path, content)
        if "drivers" in path and threading.current_thread().name == "lease":
            renewed.set()

    monkeypatch.setattr(ObjectFolder, "write", noted)
    with folder.exclusive("_state") as held:
        assert renewed.wait(20)
        held(False)
        folder.remove(key_of(folder).partition(f"{folder.name}/")[2])
        thread = next(thread for thread in threading.enumerate() if thread.name == "lease")
        thread.join(20)
        with pytest.raises(OSError, match="was taken over"):
            held(False)


@pytest.mark.slow
def test_of_many_drivers_at_once_no_two_proceed(folder: ObjectFolder) -> None:
    inside, together = [], threading.Lock()
    overlapping = []

    def drive(number: int) -> bool:
        try:
            with folder.exclusive("_state"):
                with together:
                    inside.append(number)
                    overlapping.append(len(inside))
                threading.Event().wait(0.2)
                with together:
                    inside.remove(number)
        except RunIsBusyError:
            return False
        return True

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(drive, range(5)))
    assert set(overlapping) <= {1}
    assert folder.listed("_state/drivers") == {}
