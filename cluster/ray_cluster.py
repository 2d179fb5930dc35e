"""The executor on Ray: embedded in this process's machine, or an existing cluster. The only file that imports ray."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from cluster.executor import Capacity, Failure, Grant, Handle, Item, Outcome, Value
from cluster.in_process import local_cpus

# Read when ray is imported: no usage report is sent, and an environment manager around us is not copied to workers.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
# Ray's coming default: a task that asks for no GPU sees them all; the device follows the grant here, never visibility.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray  # noqa: TID251
from ray.exceptions import RayError, RayTaskError  # noqa: TID251

RETRIES = 3
"""How often an item is run again after its worker or node was lost. Errors of the function are never retried."""

_CONNECT_SECONDS = 10.0
"""How long a cluster may take to answer at all."""

_AHEAD = 2
"""Items in flight for each worker, so that none waits for the driver."""


class RayExecutor(AbstractContextManager["RayExecutor"]):
    """Runs items as Ray tasks.

    Args:
        address: None for a cluster of this machine's own that ends with the run; `auto` or `host:port` to join one.
        packages: our packages, which are sent to the workers of a joined cluster.
    """

    name = "ray"

    def __init__(self, address: str | None = None, *, packages: Sequence[ModuleType] = ()) -> None:
        self._address = address
        self._packages = list(packages)
        self._grant = Grant(cpus=1, gpus=0, workers=1)
        self._connected = False

    def capacity(self) -> Capacity:
        """What the cluster has; an embedded one is not started for the question.

        Raises:
            ValueError: if the cluster of `address` cannot be joined.
        """
        if self._address is None:
            cpus = local_cpus()
            return Capacity(nodes=1, cpus=cpus, cpus_per_node=cpus, gpus=_local_gpus())
        self._connect(None)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cpus_of_nodes = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
        return Capacity(
            nodes=len(nodes),
            cpus=sum(cpus_of_nodes),
            cpus_per_node=min(cpus_of_nodes, default=0),
            gpus=int(sum(node.get("GPU", 0) for node in nodes)),
        )

    def start(self, grant: Grant) -> None:
        """Start the embedded cluster, or join the existing one."""
        self._grant = grant
        self._connect(grant)

    def put(self, value: Any) -> Handle:
        """Put a value into Ray's object store; arrays arrive at the workers read-only and without a copy."""
        return Handle(ray.put(value))

    def map(
        self, function: Callable[..., Value], tasks: Iterable[tuple[Item, tuple[Any, ...]]]
    ) -> Iterator[Outcome[Item, Value]]:
        """Run each task on a worker; see `Executor.map`."""
        # max_calls=0 keeps a worker's process, and its CUDA context, for the next item.
        remote = ray.remote(
            num_cpus=self._grant.cpus if not self._grant.gpus else 1,
            num_gpus=self._grant.gpus,
            max_calls=0,
            max_retries=RETRIES,
            retry_exceptions=False,
            scheduling_strategy="SPREAD",
        )(_call)
        remaining = iter(tasks)
        items: dict[Any, Item] = {}
        waiting: deque[Any] = deque()
        while True:
            while len(waiting) < self._grant.workers * _AHEAD:
                task = next(remaining, None)
                if task is None:
                    break
                item, arguments = task
                values = [argument.reference if isinstance(argument, Handle) else argument for argument in arguments]
                reference = remote.remote(function, self._grant, item, *values)
                items[reference] = item
                waiting.append(reference)
            if not waiting:
                return
            done, rest = ray.wait(list(waiting), num_returns=1)
            waiting = deque(rest)
            for reference in done:
                yield _outcome(items.pop(reference), reference)

    def close(self) -> None:
        """Leave the cluster; an embedded one ends."""
        if self._connected:
            ray.shutdown()
            self._connected = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _connect(self, grant: Grant | None) -> None:
        if self._connected:
            return
        with _own_signals():
            self._join(grant)
        self._connected = True

    def _join(self, grant: Grant | None) -> None:
        quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        if self._address is None:
            assert grant is not None, "an embedded cluster is started for its grant"
            try:
                ray.init(
                    address="local",  # whatever RAY_ADDRESS says
                    num_cpus=max(local_cpus(), grant.cpus),
                    num_gpus=grant.workers * grant.gpus,
                    include_dashboard=False,
                    **quiet,
                )
            except (ConnectionError, RayError, RuntimeError, ValueError, OSError) as error:
                raise ValueError(
                    f"Ray cannot start on this machine ({_first_line(error)}); it needs a writable home and /tmp, "
                    "or leave it out with --in-process"
                ) from error
        else:
            try:
                if ":" in self._address:  # Ray itself would try for a minute
                    host, _, port = self._address.rpartition(":")
                    socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
                ray.init(address=self._address, runtime_env={"py_modules": self._packages}, **quiet)
            except (ConnectionError, RayError, RuntimeError, ValueError, OSError) as error:
                raise ValueError(
                    f"no Ray cluster answers at --address {self._address} ({_first_line(error)}); "
                    "start one with 'ray start --head', set RAY_AUTH_MODE=token if it asks for this user's token, "
                    "or leave --address out"
                ) from error


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this process's answer to SIGTERM, which Ray replaces when it starts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    answer = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, answer)


def _call(function: Callable[..., Value], grant: Grant, item: Any, *arguments: Any) -> Value:
    return function(grant, item, *arguments)


def _outcome(item: Item, reference: Any) -> Outcome[Item, Any]:
    try:
        return Outcome(item, ray.get(reference))
    except RayTaskError as error:
        cause = error.cause
        return Outcome(item, failure=Failure(type(cause).__name__, str(cause), str(error)))
    except RayError as error:
        message = f"{_first_line(error)} (after {RETRIES} retries)"
        return Outcome(item, failure=Failure(type(error).__name__, message, str(error)))


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _local_gpus() -> int:
    """NVIDIA GPUs of this machine that CUDA_VISIBLE_DEVICES leaves visible."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    present = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    if visible is None:
        return present
    return min(present, len([device for device in visible.split(",") if device.strip() not in ("", "-1")]))
