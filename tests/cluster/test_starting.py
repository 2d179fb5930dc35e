"""A cluster of this machine's own starts in bounded time, once more where it was disturbed, or ends in one line."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.commands import ended, marked, start, until

from qkatlas.cluster import starting, watch
from qkatlas.cluster.executor import ClusterLostError
from qkatlas.cluster.guardian import _UNSAID

LINE = "submit: interrupted; what was committed is kept, and the same command goes on from there\n"
TWICE = (
    "submit: error: processes of Ray were killed while it started, twice; what was committed is kept, submit the same "
    "request again\n"
)


@pytest.fixture
def ended_now(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """Children that have ended, as stand-ins; and no process is marked."""
    found: dict[int, int] = {7: 9}  # long before
    monkeypatch.setattr(starting, "ended_children", lambda: dict(found))
    monkeypatch.setattr(starting, "mark", lambda: None)
    monkeypatch.setattr(starting, "end_marked", lambda: None)
    return found


def failing(found: dict[int, int], *ends: int | None) -> tuple[Callable[[], None], list[int]]:
    """What fails once for each end of a child; after that it starts."""
    tries: list[int] = []

    def begin() -> None:
        tries.append(len(tries))
        if len(tries) > len(ends):
            return
        number = ends[len(tries) - 1]
        if number is not None:
            found[100 + len(tries)] = number
        raise RuntimeError("the node does not come up.\nmore")

    return begin, tries


@pytest.mark.parametrize("ends", [(), (9,), (15,), (11,), (0,)])
def test_a_start_that_was_disturbed_is_tried_once_more(ends: tuple[int, ...], ended_now: dict[int, int]) -> None:
    begin, tries = failing(ended_now, *ends)
    starting.start(begin)
    assert len(tries) == len(ends) + 1


@pytest.mark.parametrize("ends", [(9, 9), (15, 0), (0, 9)])
def test_a_start_whose_processes_were_killed_twice_is_a_fault(ends: tuple[int, int], ended_now: dict[int, int]) -> None:
    begin, tries = failing(ended_now, *ends)
    with pytest.raises(ClusterLostError, match=r"^processes of Ray were killed while it started, twice$"):
        starting.start(begin)
    assert len(tries) == 2


@pytest.mark.parametrize(("ends", "count"), [((None,), 1), ((0, 0), 2), ((11, 11), 2), ((0, None), 2)])
def test_a_start_that_this_machine_does_not_allow_is_refused(
    ends: tuple[int | None, ...], count: int, ended_now: dict[int, int]
) -> None:
    begin, tries = failing(ended_now, *ends)
    with pytest.raises(
        ValueError, match=r"^Ray cannot start on this machine \(the node does not come up\); .*--in-pro"
    ):
        starting.start(begin)
    assert len(tries) == count


def test_a_start_that_hangs_ends(ended_now: dict[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "_START_SECONDS", 0.1)
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.05)
    with pytest.raises(ClusterLostError, match=r"^Ray did not start within 0\.1 s; try --in-process$"):
        starting.start(threading.Event().wait)


@pytest.mark.slow
def test_a_start_that_lets_no_thread_go_on_ends_the_command_with_one_line() -> None:
    program = (
        "import ctypes; from qkatlas.cluster import starting, watch\n"
        "starting._START_SECONDS, starting._NATIVE_SECONDS, watch.LOOK_SECONDS = 0.3, 0.3, 0.1\n"
        "starting.start(lambda: ctypes.PyDLL(None).sleep(60))"  # with Python's lock
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{_UNSAID}\n")


def test_what_native_code_prints_while_it_starts_is_not_shown(
    ended_now: dict[int, int], capfd: pytest.CaptureFixture[str]
) -> None:
    starting.start(lambda: (os.write(2, b"pages"), None)[1])
    os.write(2, b"shown")
    assert capfd.readouterr().err == "shown"


def test_a_limit_of_address_space_is_refused_beforehand(
    ended_now: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, tries = failing(ended_now)
    limit = 6_000_000 * 1024
    monkeypatch.setattr(Path, "read_text", lambda file: "MemTotal: 9 kB\nMemAvailable:   20000000 kB\n")
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limit, limit))
    # A raylet maps the store of 0.3 * 20.48 GB twice: it was seen to die with less than that.
    with pytest.raises(
        ValueError, match=r"^a process may map 6\.1 GB here, and Ray's map about 13\.3 GB; raise .*--in-"
    ):
        starting.start(begin)
    assert tries == []
    limit = 13_300_000_000
    starting.start(begin)
    assert tries == [0]


@dataclass(frozen=True)
class Ending:
    """How a command ended that was disturbed while it started Ray."""

    code: int
    printed: str
    error: str
    hits: int
    """Processes that were sent a signal."""
    seconds: float
    left: float
    """Seconds that processes of it lived on."""


@dataclass(frozen=True)
class Disturbance:
    """A signal to processes of a command as soon as they appear.

    Attributes:
        seen: what the command line of a process begins with, or holds before its first option.
        number: of the signal.
        times: how many of them get it.
        driver: whether the command itself gets it, instead.
        expected: exit code and what is said.
    """

    seen: str
    number: int
    expected: tuple[int, str]
    times: int = 1
    driver: bool = False

    def run(self, model: Path, out: Path) -> Ending:
        mark = uuid.uuid4().hex
        request = ("full-vocab", "--model", model, "--out", out, "--shards", 4, "--ray", "--quiet")
        began = time.monotonic()
        command = start(*request, env={**os.environ, "TEST_MARK": mark}, start_new_session=True)
        hit: set[int] = set()
        while command.poll() is None and len(hit) < self.times and time.monotonic() < began + 100:
            for process, line in marked(f"TEST_MARK={mark}").items():
                if self.seen in line.partition(" --")[0] and process not in hit and len(hit) < self.times:
                    hit.add(process)
                    os.kill(command.pid if self.driver else process, self.number)
            time.sleep(0.005)
        code, printed, error = ended(command, 120)
        over = time.monotonic()
        until(lambda: not marked(f"TEST_MARK={mark}"), 20)
        return Ending(code, printed, error, len(hit), over - began, time.monotonic() - over)


RAYLET, STORE, WORKER = "/raylet/raylet", "gcs_server", "default_worker.py"

DISTURBANCES = {
    "the raylet killed, twice": Disturbance(RAYLET, signal.SIGKILL, (1, TWICE), times=2),
    "the raylet killed": Disturbance(RAYLET, signal.SIGKILL, (0, "")),
    "the control store killed": Disturbance(STORE, signal.SIGKILL, (0, "")),
    "a worker killed": Disturbance(WORKER, signal.SIGKILL, (0, "")),
    "SIGTERM as the raylet appears": Disturbance(RAYLET, signal.SIGTERM, (143, LINE), driver=True),
    "SIGINT as the raylet appears": Disturbance(RAYLET, signal.SIGINT, (130, LINE), driver=True),
    "SIGHUP as the control store appears": Disturbance(STORE, signal.SIGHUP, (129, LINE), driver=True),
    "the driver killed": Disturbance(RAYLET, signal.SIGKILL, (-9, f"{_UNSAID}\n"), driver=True),
}


@pytest.fixture(scope="module")
def endings(
    request: pytest.FixtureRequest, planted_tiny: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Ending]]]:
    """Those that are asked for, three at a time: Ray waits half a minute for what was killed."""
    nodes = {item.name for item in request.session.items}
    chosen = [name for name in DISTURBANCES if any(f"[{name}]" in node for node in nodes)]
    with ThreadPoolExecutor(3) as pool:
        yield {
            name: pool.submit(DISTURBANCES[name].run, planted_tiny, tmp_path_factory.mktemp("out")) for name in chosen
        }


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.parametrize("name", DISTURBANCES)
def test_a_command_that_is_disturbed_while_ray_starts_ends_in_order(
    name: str, endings: dict[str, Future[Ending]]
) -> None:
    ending, disturbance = endings[name].result(200), DISTURBANCES[name]
    assert (ending.code, ending.printed, ending.error) == (disturbance.expected[0], "", disturbance.expected[1]), ending
    assert ending.hits == disturbance.times
    assert ending.seconds < 120
    assert ending.left < 5


@pytest.mark.cluster
@pytest.mark.slow
def test_ray_that_may_not_map_its_memory_is_refused_in_one_line(planted_tiny: Path, tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (6_000_000 * 1024, 6_000_000 * 1024))  # ulimit -v 6000000

    command = start("full-vocab", "--model", planted_tiny, "--out", tmp_path / "out", "--ray", preexec_fn=limit)
    code, printed, error = ended(command, 60)
    assert (code, printed) == (2, "")
    assert error.startswith("submit: error: a process may map 6.1 GB here, and Ray's map about ")
    assert error.endswith("'ulimit -v unlimited', or leave Ray out with --in-process\n")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
