"""The executor on Ray: embedded in this process's machine, or an existing cluster. The only file that imports ray."""

from __future__ import annotations

import logging
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Generic

from qkatlas.cluster.cpus import local_cpus
from qkatlas.cluster.executor import Capacity, ClusterLostError, Failure, Grant, Handle, Item, Node, Outcome, Value
from qkatlas.cluster.pace import Pace
from qkatlas.cluster.processes import end_marked
from qkatlas.cluster.starting import first_line, start
from qkatlas.cluster.watch import LOOK_SECONDS, SILENT_SECONDS, Watch, ask

# Read when ray is imported: no usage report is sent, and an environment manager around us is not copied to workers.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
# Ray's coming default: a task that asks for no GPU sees them all; the device follows the grant here, never visibility.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# Ray ends a driver without a word when its cluster is silent for 60 s; the executor notices, and names what is left.
os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "600")
# Ray would have a driver wait, deaf to signals, for workers that are started before they are asked for: for ever where
# one is killed. None of them would be used, for ours stand in a folder of their own.
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
# Ray's default is to run again without end what was killed for want of memory.
os.environ.setdefault("RAY_task_oom_retries", "3")

import ray  # noqa: TID251
from ray.exceptions import AuthenticationError as AuthenticationError  # noqa: TID251
from ray.exceptions import GetTimeoutError, LocalRayletDiedError, RayError, RayTaskError  # noqa: TID251
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: TID251

# Ray prints what it says of lost workers and nodes on a driver's standard output, whatever it is told of logs; the
# executor says it where it matters.
ray._private.worker.listen_error_messages = lambda *arguments: None

RETRIES = 3
"""How often an item is run again after its worker or node was lost. Errors of the function are never retried."""

_CONNECT_SECONDS = 10.0
"""How long a cluster may take to answer at all."""

_JOIN_SECONDS = 40.0
"""How long it may take to join a cluster, our package sent."""

_QUIET: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}

_NO_NODE_SECONDS = 30.0
"""How long a cluster may be without any node that could hold a worker, unless more time was asked for."""

_ANSWER_SECONDS = 60.0
"""How long a dashboard that answered once may take for an answer."""

_LOSER_SECONDS = 10.0
"""How long a second copy that came too late may take to end."""

_AHEAD = 2
"""Items in flight for each worker, so that none waits for the driver."""


class RayExecutor(AbstractContextManager["RayExecutor"]):
    """Runs items as Ray tasks.

    Args:
        address: None for a cluster of this machine's own that ends with the run; `auto` or `host:port` to join one.
        code: our package, which is sent to the workers of a joined cluster; None = they have it.
        patience: seconds that the cluster may be without any node that could hold a worker.
    """

    name = "ray"

    def __init__(self, address: str | None = None, *, code: ModuleType | None = None, patience: float = 0.0) -> None:
        self._address = address
        self._code = code
        self._patience = max(patience, _NO_NODE_SECONDS)
        self._grant = Grant(cpus=1, gpus=0, workers=1)
        self._ahead = _AHEAD
        self._connected = False

    def capacity(self) -> Capacity:
        """What the cluster has; an embedded one is not started for the question.

        Raises:
            ValueError: if the cluster of `address` cannot be joined.
            ClusterLostError: if it was, and does not answer any more.
        """
        if self._address is None:
            return Capacity((Node(local_cpus(), _local_gpus()),))
        self._connect(None)
        return Capacity(tuple(ask(_alive_nodes)))

    def grow(self, gpus: int | None, seconds: float, say: Callable[[str], None]) -> None:
        """Wait for an autoscaling cluster to have what is asked for; what it lacks in the end is not said here.

        Args:
            gpus: GPUs to wait for; 0 or None = one CPU.
            seconds: how long at most.
            say: shows a line.

        Raises:
            ValueError: if the cluster cannot be joined.
        """
        wanted, kind = (gpus, "GPU") if gpus else (1, "CPU")

        def lacks(capacity: Capacity) -> bool:
            return (capacity.gpus if gpus else capacity.cpus) < wanted

        capacity = self.capacity()
        if not lacks(capacity):
            return
        from ray.autoscaler.sdk import request_resources  # noqa: TID251

        say(f"waiting up to {seconds:g} s for {wanted} {kind}{'s' if wanted > 1 else ''}; the cluster has {capacity}")
        deadline = time.monotonic() + seconds
        ask(lambda: request_resources(bundles=[{kind: 1}] * wanted))
        try:
            while lacks(self.capacity()) and time.monotonic() < deadline:
                time.sleep(min(LOOK_SECONDS, max(0.0, deadline - time.monotonic())))
        finally:
            # The request would outlive this process and keep nodes up; from here on, the tasks in the queue ask.
            ask(lambda: request_resources(bundles=[]))

    def start(self, grant: Grant) -> None:
        """Start the embedded cluster, or join the existing one."""
        self._grant = grant
        self._connect(grant)
        # On a cluster with more GPUs than were asked for, only the number of items in flight keeps to that.
        spare = self._address is not None and grant.gpus and grant.workers < self.capacity().gpus
        self._ahead = 1 if spare else _AHEAD

    def put(self, value: Any) -> Handle:
        """Put a value into Ray's object store; arrays arrive at the workers read-only and without a copy.

        The driver owns it: a node that is lost loses only its copy.
        """
        try:
            return Handle(ray.put(value))
        except RayError as error:
            raise ClusterLostError(
                f"what the workers share cannot be put on the cluster: {first_line(error)}"
            ) from error

    def map(
        self, function: Callable[..., Value], tasks: Iterable[tuple[Item, tuple[Any, ...]]]
    ) -> Iterator[Outcome[Item, Value]]:
        """Run each task on a worker; see `Executor.map`.

        Once no task is left to be drawn and workers are idle, an item that takes much longer than the others did is
        run a second time; the copy that ends first with a value counts, and the other is stopped.
        """
        with Watch(self._grant, self._patience, _alive_nodes) as watch:
            try:
                yield from self._map(function, iter(tasks), watch)
            except RayError as error:
                raise ClusterLostError(f"the cluster is out of reach ({first_line(error)})") from error

    def _map(
        self, function: Callable[..., Value], tasks: Iterator[tuple[Item, tuple[Any, ...]]], watch: Watch
    ) -> Iterator[Outcome[Item, Value]]:
        # max_calls=0 keeps a worker's process, and its CUDA context, for the next item. A GPU worker asks for no core:
        # the GPU is what there is one of, and a node with fewer cores than GPUs would leave some of these idle.
        # Ray would give such a worker's arithmetic one thread.
        threads = {"env_vars": {"OMP_NUM_THREADS": str(self._grant.cpus)}} if self._grant.gpus else {}
        remote = ray.remote(
            num_cpus=0 if self._grant.gpus else self._grant.cpus,
            runtime_env=threads,
            num_gpus=self._grant.gpus,
            max_calls=0,
            max_retries=RETRIES,
            retry_exceptions=False,
            scheduling_strategy="SPREAD",
        )(_call)
        flying: dict[Any, _Work[Item]] = {}  # by the reference of each copy
        losers: list[Any] = []
        pace = Pace()
        quick_node: str | None = None
        drawn_out = known = False
        while True:
            while not drawn_out and len(flying) < self._grant.workers * self._ahead:
                task = next(tasks, None)
                if task is None:
                    drawn_out = True
                    break
                item, arguments = task
                values = [argument.reference if isinstance(argument, Handle) else argument for argument in arguments]
                work = _Work(item, values)
                launch = partial(work.launch, remote, function, self._grant, flying)
                if known:
                    launch()
                else:
                    ask(launch)  # the first one tells the head what the function is
                    known = True
            if not flying:
                break
            watch.require_cluster()
            if drawn_out and len(flying) < self._grant.workers and watch.nodes > 1:
                late = max((work for work in flying.values() if not work.twice), key=_Work.seconds, default=None)
                if late and pace.is_late(late.seconds()):
                    late.twice = True
                    # The node that ended an item last is alive and has room; the straggler's may be the trouble.
                    near = NodeAffinitySchedulingStrategy(quick_node, soft=True) if quick_node else "SPREAD"
                    late.launch(remote.options(scheduling_strategy=near), function, self._grant, flying)
            done, _ = ray.wait(list(flying), num_returns=1, timeout=LOOK_SECONDS)
            for reference in done:  # one, or none in that time
                work = flying.pop(reference)
                try:
                    end = _outcome(work.item, reference)
                except GetTimeoutError:  # this process was stopped meanwhile
                    flying[reference] = work
                    continue
                work.copies.remove(reference)
                if end.lost and work.copies:
                    continue  # the other copy is still at it
                quick_node = end.node or quick_node
                for loser in work.copies:
                    del flying[loser]
                    ray.cancel(loser, force=True)
                    losers.append(loser)
                pace.add(work.seconds())
                yield end.outcome
        if losers:
            ray.wait(losers, num_returns=len(losers), timeout=_LOSER_SECONDS)

    def close(self) -> None:
        """Leave the cluster; an embedded one ends."""
        if self._connected:
            ray.shutdown()
            self._connected = False
            end_marked()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _connect(self, grant: Grant | None) -> None:
        if self._connected:
            return
        with _own_signals(), tempfile.TemporaryDirectory(prefix="qkatlas-") as empty:
            # Ray puts the driver's folder before all others on its workers' search path, where a user's numpy.py would
            # be run in place of the real one, unless the job brings a folder for its workers to stand in.
            environment = {"working_dir": empty}
            if self._address is None:
                assert grant is not None, "an embedded cluster is started for its grant"
                _start(grant, environment)
            else:
                self._join(self._address, environment)
        self._connected = True

    def _join(self, address: str, environment: dict[str, Any]) -> None:
        try:
            if ":" in address:  # Ray itself would try for a minute
                host, _, port = address.rpartition(":")
                socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
            # A job whose code a cluster was handed passes that on to its workers by itself, in a folder of its own.
            sent = environment | {"py_modules": [self._code]} if self._code else None
            # Whatever else listens there never answers Ray.
            ask(lambda: ray.init(address=address, runtime_env=sent, **_QUIET), _JOIN_SECONDS)
        except (ClusterLostError, ConnectionError, RayError, RuntimeError, ValueError, OSError) as error:
            raise ValueError(
                f"no Ray cluster answers at --address {address} ({first_line(error)}); "
                "start one with 'ray start --head', set RAY_AUTH_MODE=token if it asks for this user's token, "
                "or leave --address out"
            ) from error


def _start(grant: Grant, environment: dict[str, Any]) -> None:
    """Start an embedded cluster; see `start`."""

    def begin() -> None:
        ray.init(
            address="local",  # whatever RAY_ADDRESS says
            num_cpus=max(local_cpus(), grant.cpus),
            num_gpus=grant.workers * grant.gpus,
            include_dashboard=False,
            runtime_env=environment,
            **_QUIET,
        )

    start(begin)


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


@dataclass(eq=False)
class _Work(Generic[Item]):
    """An item and the copies of its task that are in flight."""

    item: Item
    values: list[Any]
    copies: list[Any] = field(default_factory=list)
    twice: bool = False
    """Whether a second copy was started."""
    since: float = field(default_factory=time.monotonic)

    def launch(self, remote: Any, function: Callable[..., Any], grant: Grant, flying: dict[Any, _Work[Item]]) -> None:
        reference = remote.remote(function, grant, self.item, *self.values)
        self.copies.append(reference)
        flying[reference] = self

    def seconds(self) -> float:
        return time.monotonic() - self.since


def _alive_nodes() -> list[Node]:
    try:
        resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    except RayError as error:
        raise ClusterLostError(f"the cluster is out of reach ({first_line(error)})") from error
    return [Node(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in resources]


def _call(function: Callable[..., Value], grant: Grant, item: Any, *arguments: Any) -> tuple[str, Value]:
    return ray.get_runtime_context().get_node_id(), function(grant, item, *arguments)


@dataclass(frozen=True)
class _Ended(Generic[Item]):
    """How a copy of an item ended."""

    outcome: Outcome[Item, Any]
    node: str | None = None
    """Id of the node that returned a value."""
    lost: bool = False
    """Whether the cluster failed, not the function."""


def _outcome(item: Item, reference: Any) -> _Ended[Item]:
    try:
        node, value = ray.get(reference, timeout=SILENT_SECONDS)
        return _Ended(Outcome(item, value), node=node)
    except RayTaskError as error:
        cause = error.cause
        return _Ended(Outcome(item, failure=Failure(type(cause).__name__, str(cause), str(error))))
    except (LocalRayletDiedError, GetTimeoutError):
        raise  # neither is about this item
    except RayError as error:
        message = f"{first_line(error)} (after {RETRIES} retries)"
        return _Ended(Outcome(item, failure=Failure(type(error).__name__, message, str(error))), lost=True)


def _local_gpus() -> int:
    """NVIDIA GPUs of this machine that CUDA_VISIBLE_DEVICES leaves visible."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    present = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    if visible is None:
        return present
    return min(present, len([device for device in visible.split(",") if device.strip() not in ("", "-1")]))


def jobs_client(address: str) -> Any:
    """Ray's client of the Jobs API of a cluster.

    Ray's own waits for an answer for ever, and lets RAY_API_SERVER_ADDRESS and RAY_ADDRESS override the address.

    Args:
        address: `http://` or `https://` URL of the head's dashboard, which is asked for its version at once.

    Returns:
        A `ray.job_submission.JobSubmissionClient`.

    Raises:
        OSError, RuntimeError, KeyError, TypeError: whatever the answer makes Ray raise.
    """
    from ray.job_submission import JobSubmissionClient  # noqa: TID251 - few commands need it

    class Client(JobSubmissionClient):
        answer_seconds = _CONNECT_SECONDS

        def _do_request(self, *arguments: Any, **more: Any) -> Any:
            return super()._do_request(*arguments, timeout=(_CONNECT_SECONDS, self.answer_seconds), **more)

    for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)
    with _only_address(address):
        client = Client(address)
    client.answer_seconds = _ANSWER_SECONDS
    return client


@contextmanager
def _only_address(address: str) -> Iterator[None]:
    """Make Ray's client take an address, which it lets RAY_API_SERVER_ADDRESS and RAY_ADDRESS override."""
    name = "RAY_API_SERVER_ADDRESS"
    before = os.environ.get(name)
    os.environ[name] = address
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
