"""Executors: the same outcomes from both, lost workers retried, errors of the function never."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray import cloudpickle

from qkatlas.cluster.cpus import local_cpus
from qkatlas.cluster.executor import Capacity, Executor, Grant, Node
from qkatlas.cluster.in_process import InProcessExecutor
from qkatlas.cluster.pace import Pace
from qkatlas.cluster.ray_cluster import RayExecutor

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers import nothing from where a command is given


@pytest.fixture(scope="module")
def ray_executor() -> Iterator[RayExecutor]:
    with RayExecutor() as executor:
        executor.start(Grant(cpus=1, gpus=0, workers=2))
        yield executor


@pytest.fixture(params=["in-process", pytest.param("ray", marks=pytest.mark.cluster)])
def executor(request: pytest.FixtureRequest) -> Executor:
    return InProcessExecutor() if request.param == "in-process" else request.getfixturevalue("ray_executor")


def add(grant: Grant, item: int, values: np.ndarray, text: str) -> tuple[int, str, int]:
    return item + int(values.sum()), text, grant.cpus


def fail_on_odd(grant: Grant, item: int) -> int:
    if item % 2:
        raise ValueError(f"{item} is odd\nsecond line")
    return item


def die_once(grant: Grant, item: int, folder: Path) -> int:
    marker = folder / str(item)
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def die(grant: Grant, item: int, log: Path) -> None:
    with log.open("a") as stream:
        stream.write("tried\n")
    os.kill(os.getpid(), signal.SIGKILL)


def test_every_item_ends_with_its_value(executor: Executor) -> None:
    shared = executor.put(np.arange(4))
    outcomes = list(executor.map(add, ((item, (shared, "x")) for item in range(20))))
    assert {outcome.item: outcome.value for outcome in outcomes} == {item: (item + 6, "x", 1) for item in range(20)}


def test_an_error_is_the_outcome_of_its_item_alone(executor: Executor) -> None:
    outcomes = {outcome.item: outcome for outcome in executor.map(fail_on_odd, ((item, ()) for item in range(6)))}
    assert [outcomes[item].value for item in (0, 2, 4)] == [0, 2, 4]
    for item in (1, 3, 5):
        failure = outcomes[item].failure
        assert failure is not None
        assert str(failure) == f"ValueError: {item} is odd"
        assert "fail_on_odd" in failure.trace


def test_tasks_are_drawn_as_workers_come_free(executor: Executor) -> None:
    drawn = []

    def tasks() -> Iterator[tuple[int, tuple[()]]]:
        for item in range(0, 100, 2):
            drawn.append(item)
            yield item, ()

    outcomes = executor.map(fail_on_odd, tasks())
    next(outcomes)
    assert len(drawn) <= 5
    assert len(list(outcomes)) == 49


@pytest.mark.cluster
def test_a_lost_worker_is_retried_and_the_retries_are_bounded(ray_executor: RayExecutor, tmp_path: Path) -> None:
    outcomes = list(ray_executor.map(die_once, ((item, (tmp_path,)) for item in range(3))))
    assert sorted(outcome.value for outcome in outcomes) == [0, 1, 2]
    (outcome,) = ray_executor.map(die, [(0, (tmp_path / "log",))])
    assert outcome.failure is not None
    assert outcome.failure.kind == "WorkerCrashedError"
    assert (tmp_path / "log").read_text() == "tried\n" * 4


def test_an_embedded_cluster_has_what_the_machine_has() -> None:
    assert RayExecutor().capacity().cpus == local_cpus()
    assert RayExecutor().capacity().gpus == 0 or Path("/proc/driver/nvidia/gpus").exists()


def test_a_cluster_that_does_not_answer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no Ray cluster answers at --address 127\.0\.0\.1:1 "):
        RayExecutor("127.0.0.1:1").capacity()


def test_the_cluster_is_divided_among_workers() -> None:
    small = Capacity((Node(2, 0),))
    assert Grant.divide(small, None) == Grant.divide(small, 0) == Grant(cpus=2, gpus=0, workers=1)
    big = Capacity((Node(32, 4),) * 3)
    assert Grant.divide(big, 0) == Grant(cpus=4, gpus=0, workers=24)
    assert Grant.divide(big, None) == Grant(cpus=4, gpus=1, workers=12)
    assert Grant.divide(big, 8).workers == 8
    with pytest.raises(ValueError, match=r"--gpus 13 .* \(3 nodes, 96 CPUs and 12 GPUs\)"):
        Grant.divide(big, 13)
    with pytest.raises(ValueError, match="1 node, 2 CPUs and 0 GPUs"):
        Grant.divide(small, 8)


def test_nodes_that_differ_are_divided_by_what_each_of_them_has() -> None:
    head, gpu_node, cpu_node = Node(1, 0), Node(8, 4), Node(64, 0)
    mixed = Capacity((head, gpu_node, cpu_node))
    assert str(mixed) == "3 nodes, 73 CPUs and 4 GPUs"
    # The cores of other nodes are of no use to a GPU's worker.
    assert Grant.divide(mixed, None) == Grant(cpus=2, gpus=1, workers=4)
    # Four threads a worker leave only the head's core idle; it does not make every worker small.
    assert Grant.divide(mixed, 0) == Grant(cpus=4, gpus=0, workers=18)
    assert Grant.divide(Capacity((head, head)), 0) == Grant(cpus=1, gpus=0, workers=2)
    # 6 = 2 workers of 3, where one of 4 would leave two cores idle.
    assert Grant.divide(Capacity((Node(6, 0),)), 0) == Grant(cpus=3, gpus=0, workers=2)
    assert Grant.divide(Capacity((Node(0, 2), head)), None) == Grant(cpus=1, gpus=1, workers=2)
    with pytest.raises(ValueError, match=r"no CPU to run on \(1 node, 0 CPUs and 0 GPUs\)"):
        Grant.divide(Capacity((Node(0, 0),)), 0)


@given(st.lists(st.integers(0, 130), min_size=1, max_size=6).filter(any), st.integers(1, 8))
def test_every_cpu_worker_has_a_node_and_few_cores_are_idle(cpus_of_nodes: list[int], most: int) -> None:
    grant = Grant.divide(Capacity(tuple(Node(cpus, 0) for cpus in cpus_of_nodes)), 0, most_cpus=most)
    assert 1 <= grant.cpus <= most
    assert grant.workers == sum(cpus // grant.cpus for cpus in cpus_of_nodes)
    assert grant.workers * grant.cpus >= 0.9 * sum(cpus_of_nodes)


def test_an_item_is_late_by_the_pace_of_the_others() -> None:
    pace = Pace()
    for _ in range(2):
        pace.add(4.0)
    assert not pace.is_late(1000.0)
    pace.add(100.0)
    assert not pace.is_late(8.0)
    assert pace.is_late(8.1)
    quick = Pace()
    for _ in range(9):
        quick.add(0.01)
    assert not quick.is_late(5.0)
    assert quick.is_late(5.1)
