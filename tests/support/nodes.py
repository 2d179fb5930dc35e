"""Clusters of several nodes on this machine, what is done to them, and items that show where they ran."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.cluster_utils import Cluster

from qkatlas.cluster.executor import Grant

QUICK = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
"""A lost node is noticed in about 3 s instead of about 15."""


@contextmanager
def cluster_of(*nodes: dict[str, Any], head: int = 1, **config: Any) -> Iterator[Cluster]:
    """A head with some CPUs, and nodes as they are given."""
    arguments = {"num_cpus": head, "include_dashboard": False, "_system_config": {**QUICK, **config}}
    cluster = Cluster(initialize_head=True, head_node_args=arguments)
    try:
        for node in nodes:
            cluster.add_node(**node)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()


def submit(*arguments: object, log: Path | None = None) -> subprocess.Popen[str]:
    """The command line in a process of its own; its output goes to a file, or is read through pipes."""
    program = [sys.executable, "-c", "from qkatlas.jobs.main import main; main()", *map(str, arguments)]
    if log is None:
        return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with log.open("a") as stream:
        return subprocess.Popen(program, stdout=stream, stderr=stream, text=True)


def raylet(node: Any) -> int:
    """Process id of a node's raylet."""
    return int(node.all_processes["raylet"][0].process.pid)


def kill_head(cluster: Cluster) -> None:
    """SIGKILL the cluster's control store."""
    os.kill(cluster.head_node.all_processes["gcs_server"][0].process.pid, signal.SIGKILL)


def workers(node: Any) -> list[int]:
    """Process ids of the workers on a node, idle or not."""
    try:
        children = Path(f"/proc/{raylet(node)}/task/{raylet(node)}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(child) for child in children if _title(child).startswith(("ray::IDLE", "ray::_call"))]


def _title(process: str) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Wait for something, for a bounded time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come in {seconds} s"
        time.sleep(0.02)


def place(grant: Grant, item: int, seconds: float) -> tuple[int, str]:
    """Take some time, and say on which node."""
    time.sleep(seconds)
    return item, ray.get_runtime_context().get_node_id()


def openmp_threads(grant: Grant, item: int) -> str | None:
    """What a worker's arithmetic libraries are told."""
    return os.environ.get("OMP_NUM_THREADS")


def total(grant: Grant, item: int, values: Any, seconds: float) -> int:
    """Use a shared value after some time."""
    time.sleep(seconds)
    return item + int(values.sum())


def hang_first(grant: Grant, item: int, folder: Path) -> str:
    """Item 0 hangs where it is tried first, for longer than any test; every copy leaves its process id."""
    copies = len(list(folder.glob(f"{item}-*")))
    (folder / f"{item}-{os.getpid()}").touch()
    time.sleep(0.1 if item or copies else 300.0)
    return f"{item} in copy {copies}"


def fail_when_late(grant: Grant, item: int, folder: Path) -> int:
    """The second copy of item 0 raises while the first one is still at it."""
    copies = len(list(folder.glob(f"{item}-*")))
    (folder / f"{item}-{os.getpid()}").touch()
    if copies:
        raise ValueError(f"{item} cannot be")
    time.sleep(0.1 if item else 300.0)
    return item


def alive(process: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def numbered(count: int, *arguments: Any) -> Sequence[tuple[int, tuple[Any, ...]]]:
    """Items 0, 1, ... with the same arguments."""
    return [(item, arguments) for item in range(count)]


cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers of a joined cluster do not see this folder
