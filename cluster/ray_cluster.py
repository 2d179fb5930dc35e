"""The executor on Ray: embedded in this process's machine, or an existing cluster. The only file that imports ray."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from cluster.executor import Capacity, Failure, Grant, Handle, Item, Outcome, Value
from cluster.in_process import local_cpus
from cluster.remote_job import COMMAND, JobState, LostDashboardError, UnknownJobError

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
                # A job whose code a cluster was handed passes that on to its workers by itself.
                modules = {"py_modules": self._packages} if self._packages else None
                ray.init(address=self._address, runtime_env=modules, **quiet)
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


_ANSWER_SECONDS = 60.0
"""How long a dashboard that answered once may take for an answer."""


class Dashboard:
    """A cluster's Jobs API: a `cluster.remote_job.JobsApi` that also takes and stops jobs.

    Args:
        address: `http://` or `https://` URL of the head's dashboard.

    Raises:
        ValueError: if no dashboard answers there, or it does not let us in.
    """

    def __init__(self, address: str) -> None:
        from ray.job_submission import JobSubmissionClient  # noqa: TID251 - few commands need it

        class Client(JobSubmissionClient):
            """Ray's client, which would wait for an answer for ever."""

            answer_seconds = _CONNECT_SECONDS

            def _do_request(self, *arguments: Any, **more: Any) -> Any:
                return super()._do_request(*arguments, timeout=(_CONNECT_SECONDS, self.answer_seconds), **more)

        self._address = address
        for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
            logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)
        try:
            with _only_address(address), self._answers():
                self._client = Client(address)
        except (LostDashboardError, KeyError, TypeError) as error:
            reason = _first_line(error.__cause__ or error).partition(". ")[0].rstrip(".")
            raise ValueError(
                f"no Ray dashboard answers at --address {address} ({reason}); "
                "give the URL of the head's dashboard, such as http://localhost:8265 through "
                "'ssh -L 8265:localhost:8265 HEAD'"
            ) from error
        Client.answer_seconds = _ANSWER_SECONDS

    def submit(self, job_id: str, entrypoint: str, folder: Path, metadata: Mapping[str, str]) -> None:
        """Send a folder, and run a shell command in it.

        Raises:
            LostDashboardError: if the cluster does not take the job, or cannot be asked any more.
        """
        with self._answers():
            self._client.submit_job(
                submission_id=job_id,
                entrypoint=entrypoint,
                runtime_env={"working_dir": str(folder)},
                metadata=dict(metadata),
            )

    def state(self, job_id: str) -> JobState:
        """Where a job stands.

        Raises:
            UnknownJobError: if there is none of this id.
        """
        with self._answers(job_id):
            if not re.fullmatch(r"[\w.-]*[\w-]", job_id):  # it becomes a part of a URL
                raise UnknownJobError(f"{job_id!r} is no id of a job; list these with: submit jobs")
            return _job_state(self._client.get_job_info(job_id))

    def states(self) -> list[JobState]:
        """Where every job stands that was submitted through the API."""
        with self._answers():
            return [_job_state(details) for details in self._client.list_jobs() if details.submission_id]

    def log(self, job_id: str) -> str:
        """All of a job's log."""
        with self._answers():
            return str(self._client.get_job_logs(job_id))

    def tail(self, job_id: str, pause: float) -> Generator[str]:
        """A job's log from its beginning, as it comes; an empty text after `pause` seconds without any."""
        with self._answers(), closing(asyncio.new_event_loop()) as loop:
            pieces: Any = self._client.tail_job_logs(job_id)
            coming: asyncio.Future[str] | None = None
            try:
                while True:
                    coming = coming or asyncio.ensure_future(anext(pieces), loop=loop)
                    arrived, _ = loop.run_until_complete(asyncio.wait([coming], timeout=pause))
                    if not arrived:
                        yield ""
                        continue
                    try:
                        piece = coming.result()
                    except StopAsyncIteration:
                        return
                    coming = None
                    yield piece
            finally:
                if coming is not None:
                    coming.cancel()
                    loop.run_until_complete(asyncio.wait([coming]))
                loop.run_until_complete(pieces.aclose())

    def stop(self, job_id: str) -> None:
        """Ask a job to stop; it takes some seconds.

        Raises:
            UnknownJobError: if there is none of this id.
        """
        with self._answers(job_id):
            self._client.stop_job(job_id)

    @contextmanager
    def _answers(self, job_id: str = "") -> Iterator[None]:
        """Give Ray's errors names, and what a user can do about them."""
        import aiohttp
        from ray.exceptions import AuthenticationError  # noqa: TID251

        try:
            yield
        except AuthenticationError as error:
            answer = _first_line(error).partition(":")[0]
            known = {"Authentication required": "none was sent", "Authentication failed": "it is not the one sent"}
            raise ValueError(
                f"the dashboard at {self._address} asks for the cluster's token ({known.get(answer, 'none is here')}); "
                "set RAY_AUTH_MODE=token, and put the token into RAY_AUTH_TOKEN or ~/.ray/auth_token"
            ) from error
        except (OSError, RuntimeError, aiohttp.ClientError) as error:
            if job_id and "status code 404" in str(error):
                raise UnknownJobError(
                    f"the cluster at {self._address} knows no job {job_id}; list its jobs with: submit jobs --all"
                ) from error
            raise LostDashboardError(
                f"the dashboard at {self._address} does not answer as it should ({_first_line(error)}); look at the "
                "head, or try again"
            ) from error


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


def _job_state(details: Any) -> JobState:
    """Ray's description of a job as our own."""
    return JobState(
        job_id=details.submission_id or details.job_id,
        status=str(details.status.value),
        entrypoint=details.entrypoint,
        command=(details.metadata or {}).get(COMMAND),
        started=details.start_time / 1000 if details.start_time else None,
        ended=details.end_time / 1000 if details.end_time else None,
        exit_code=details.driver_exit_code,
        message=details.message or "",
    )
