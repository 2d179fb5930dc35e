"""Clusters of several nodes: all of them are used, and what is lost on the way is computed again or named."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ray.cluster_utils import Cluster
from support.nodes import (
    alive,
    cluster_of,
    fail_when_late,
    hang_first,
    numbered,
    openmp_threads,
    place,
    total,
    until,
    workers,
)

from qkatlas.cluster.executor import ClusterLostError, Grant
from qkatlas.cluster.ray_cluster import RayExecutor

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without a CPU and two nodes."""
    with cluster_of({"num_cpus": 1}, {"num_cpus": 1, "num_gpus": 2}, head=0) as cluster:
        yield cluster


@pytest.fixture
def executor(cluster: Cluster) -> Iterator[RayExecutor]:
    with RayExecutor(cluster.address) as executor:
        yield executor


def start(executor: RayExecutor, gpus: int = 0) -> RayExecutor:
    executor.start(Grant.divide(executor.capacity(), gpus))
    return executor


def test_every_node_works(executor: RayExecutor) -> None:
    assert str(executor.capacity()) == "3 nodes, 2 CPUs and 2 GPUs"
    outcomes = list(start(executor).map(place, numbered(12, 0.2)))
    assert not [outcome.failure for outcome in outcomes if outcome.failure]
    values = [outcome.value for outcome in outcomes if outcome.value]
    assert sorted(item for item, _ in values) == list(range(12))
    assert len({node for _, node in values}) == 2


def test_declared_gpus_are_used_whatever_cores_their_node_has(executor: RayExecutor) -> None:
    start(executor, 2)
    started = time.monotonic()
    nodes = {outcome.value[1] for outcome in executor.map(place, numbered(4, 1.0)) if outcome.value}
    assert len(nodes) == 1
    # Two at a time: 2 s and the start of two processes, where one at a time takes 4.
    assert time.monotonic() - started < 20


def test_a_gpu_worker_computes_with_its_share_of_the_cores(executor: RayExecutor) -> None:
    executor.start(Grant(cpus=3, gpus=1, workers=2))
    outcomes = executor.map(openmp_threads, numbered(2))
    assert [outcome.value for outcome in outcomes] == ["3", "3"]


def test_no_more_gpus_than_asked_for_are_used_at_a_time(executor: RayExecutor, tmp_path: Path) -> None:
    start(executor, 1)
    started = time.monotonic()
    assert len(list(executor.map(place, numbered(4, 0.5)))) == 4
    assert time.monotonic() - started >= 2.0


def test_a_straggler_is_run_twice_and_the_first_copy_to_end_counts(executor: RayExecutor, tmp_path: Path) -> None:
    outcomes = {outcome.item: outcome.value for outcome in start(executor).map(hang_first, numbered(6, tmp_path))}
    assert outcomes == {0: "0 in copy 1", **{item: f"{item} in copy 0" for item in range(1, 6)}}
    copies = [int(file.name.partition("-")[2]) for file in tmp_path.glob("0-*")]
    assert len(copies) == 2
    # The loser ended before the map did, or it could still have written.
    assert sum(map(alive, copies)) == 1


def test_an_error_in_a_second_copy_fails_the_item_at_once(executor: RayExecutor, tmp_path: Path) -> None:
    started = time.monotonic()
    outcomes = {outcome.item: outcome for outcome in start(executor).map(fail_when_late, numbered(6, tmp_path))}
    assert time.monotonic() - started < 60
    assert str(outcomes[0].failure) == "ValueError: 0 cannot be"
    assert [outcomes[item].value for item in range(1, 6)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("what", ["worker", "node"])
def test_what_ran_on_a_lost_worker_or_node_is_run_again(what: str, cluster: Cluster, executor: RayExecutor) -> None:
    extra = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    start(executor)
    shared = executor.put(np.arange(300_000))  # in the object store, not in the task
    expected = int(np.arange(300_000).sum())
    outcomes = executor.map(total, numbered(24, shared, 0.3))
    seen = [next(outcomes) for _ in range(3)]
    until(lambda: workers(extra), "a worker on the new node")
    if what == "worker":
        for process in workers(extra):
            os.kill(process, signal.SIGKILL)
        seen += outcomes
        cluster.remove_node(extra)
    else:
        cluster.remove_node(extra, allow_graceful=False)
        seen += outcomes
    assert {outcome.item: outcome.value for outcome in seen} == {item: item + expected for item in range(24)}


def test_without_any_node_left_the_rest_fails_within_the_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qkatlas.cluster.ray_cluster._NO_NODE_SECONDS", 3.0)
    with cluster_of({"num_cpus": 1}, head=0) as cluster, RayExecutor(cluster.address) as executor:
        outcomes = start(executor).map(place, numbered(100, 0.1))
        next(outcomes)
        (node,) = cluster.worker_nodes
        cluster.remove_node(node, allow_graceful=False)
        started = time.monotonic()
        with pytest.raises(ClusterLostError, match=r"^the cluster has had no node for a worker \(CPUs: 1\) for 3 s$"):
            list(outcomes)
        assert time.monotonic() - started < 20


def test_a_cluster_without_a_core_is_refused_and_one_that_grows_is_waited_for() -> None:
    said: list[str] = []
    with cluster_of(head=0) as cluster, RayExecutor(cluster.address) as executor:
        executor.grow(0, 0.5, said.append)
        with pytest.raises(ValueError, match=r"no CPU to run on \(1 node, 0 CPUs and 0 GPUs\)"):
            Grant.divide(executor.capacity(), 0)
        waiting = threading.Thread(target=executor.grow, args=(2, 100.0, said.append))
        waiting.start()
        until(lambda: len(said) == 2, "the line that says what is waited for")
        assert waiting.is_alive()
        cluster.add_node(num_cpus=1, num_gpus=2)
        waiting.join(30.0)
        assert not waiting.is_alive()
        assert Grant.divide(executor.capacity(), 2).workers == 2
        executor.grow(2, 100.0, said.append)
    assert said == [
        "waiting up to 0.5 s for 1 CPU; the cluster has 1 node, 0 CPUs and 0 GPUs",
        "waiting up to 100 s for 2 GPUs; the cluster has 1 node, 0 CPUs and 0 GPUs",
    ]
