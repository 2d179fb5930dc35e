"""A question to a head that is gone ends, and so does joining what is no cluster."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from qkatlas.cluster.executor import ClusterLostError
from qkatlas.cluster.ray_cluster import first_line
from qkatlas.cluster.watch import ask

SILENT = """
import sys
import qkatlas.cluster.ray_cluster
from qkatlas.jobs.main import main
qkatlas.cluster.ray_cluster._JOIN_SECONDS = 1.0
main(["full-vocab", "--model", "planted-tiny", "--gpus", "0", "--out", sys.argv[2], "--address", sys.argv[1]])
"""

LOST = """
import functools
import qkatlas.cluster.ray_cluster as ray_cluster
from support.nodes import cluster_of, kill_head, numbered, place
from qkatlas.cluster.executor import ClusterLostError, Grant

with cluster_of({"num_cpus": 1}, head=0) as cluster:
    executor = ray_cluster.RayExecutor(cluster.address)
    executor.start(Grant.divide(executor.capacity(), 0))
    kill_head(cluster)
    ray_cluster.ask = functools.partial(ray_cluster.ask, seconds=1.0)
    for question in (executor.capacity, lambda: list(executor.map(place, numbered(2, 0.1)))):
        try:
            question()
        except ClusterLostError as error:
            print(error, flush=True)
    executor.close()
"""

KILLED = """
import os, signal, time
from support.commands import marked
from qkatlas.cluster.executor import ClusterLostError, Grant
from qkatlas.cluster.ray_cluster import RayExecutor

def sleep(grant, item):
    for process, line in marked("TEST_MARK=killed").items():
        if line.split()[0].endswith("/raylet/raylet"):
            os.kill(process, signal.SIGKILL)
    time.sleep(5)

with RayExecutor() as executor:
    executor.start(Grant(cpus=1, gpus=0, workers=1))
    try:
        list(executor.map(sleep, [(1, ())]))
    except ClusterLostError:
        pass
    time.sleep(6)  # Ray takes its time to say what it has to
"""


@pytest.mark.slow
def test_an_answer_and_an_error_arrive_and_silence_ends() -> None:
    def fail() -> None:
        raise TimeoutError("of the question itself")

    assert ask(lambda: 3) == 3
    with pytest.raises(TimeoutError, match="of the question itself"):
        ask(fail)
    started = time.monotonic()
    with pytest.raises(ClusterLostError, match=r"^the head of the cluster has not answered for 0\.1 s$"):
        ask(threading.Event().wait, 0.1)
    assert time.monotonic() - started < 10.0


@pytest.mark.slow
def test_a_port_that_is_no_clusters_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-c", SILENT, address, str(tmp_path)], capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 2, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("submit: "))
    assert f"no Ray cluster answers at --address {address} (the head of the cluster has not answered for 1 s)" in line


@pytest.mark.cluster
def test_a_head_lost_between_two_steps_is_noticed() -> None:
    paths = os.pathsep.join(["tests", *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", LOST],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.stdout.splitlines() == ["the head of the cluster has not answered for 1 s"] * 2, done.stderr


@pytest.mark.cluster
def test_what_ray_says_of_lost_processes_is_not_printed_as_a_result() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["tests", *sys.path]), "TEST_MARK": "killed"}
    done = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, timeout=120, env=environment)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_what_a_version_mismatch_is_about_is_on_its_line() -> None:
    error = RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.60.0\n    Python: 3.11.2\n")
    assert first_line(error) == "Version mismatch: The cluster was started with: Ray: 2.60.0 Python: 3.11.2"
    assert first_line(RuntimeError("one\ntwo")) == "one"
