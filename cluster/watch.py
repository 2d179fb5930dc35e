"""Whether there still is a cluster to wait for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from types import TracebackType

from qkatlas.cluster.executor import ClusterLostError, Grant, Node, Value

SILENT_SECONDS = 20.0
"""How long the head of a cluster may not answer."""

LOOK_SECONDS = 1.0
"""Between two looks at the cluster."""


def ask(question: Callable[[], Value], seconds: float = SILENT_SECONDS, *, stay: bool = False) -> Value:
    """What the head of the cluster answers; a question to one that is gone never returns.

    Args:
        question: is asked in a thread of its own, which is left behind if it has no answer.
        seconds: how long it may take.
        stay: whether its thread lives on; processes that it started may end with it.

    Raises:
        ClusterLostError: if it takes longer.
    """
    answer: Future[Value] = Future()

    def put() -> None:
        try:
            answer.set_result(question())
        except BaseException as error:  # raised again below
            answer.set_exception(error)
        if stay:
            threading.Event().wait()

    threading.Thread(target=put, daemon=True).start()
    for patience in (seconds, 2 * LOOK_SECONDS):  # the second where this process itself had been stopped
        try:
            return answer.result(patience)
        except TimeoutError:
            if answer.done():  # by an error of this kind, or just now
                return answer.result()
    raise silent(seconds)


def silent(seconds: float) -> ClusterLostError:
    """The error for a head that has not answered for so long."""
    return ClusterLostError(f"the head of the cluster has not answered for {seconds:g} s")


class Watch(AbstractContextManager["Watch"]):
    """Looks at the cluster in a thread of its own: a question to a head that is gone never returns.

    Args:
        grant: what a worker needs.
        patience: seconds that the cluster may be without any node that could hold a worker.
        look: the nodes that are alive; ClusterLostError where that cannot be told.
    """

    def __init__(self, grant: Grant, patience: float, look: Callable[[], Sequence[Node]]) -> None:
        self.nodes = 0
        """Nodes that are alive and could hold a worker."""
        self._grant = grant
        self._nodes = look
        self._patience = patience
        self._answered = self._held = time.monotonic()
        self._heard = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(LOOK_SECONDS)

    def require_cluster(self) -> None:
        """Make sure that there is something to wait for.

        Raises:
            ClusterLostError: if the head does not answer, or no node could hold a worker, for too long.
        """
        if time.monotonic() - self._answered > SILENT_SECONDS:
            self._heard.clear()
            if not self._heard.wait(2 * LOOK_SECONDS):  # or this process itself had been stopped
                raise silent(SILENT_SECONDS)
        if self._answered - self._held > self._patience:
            size = "1 GPU" if self._grant.gpus else f"CPUs: {self._grant.cpus}"
            raise ClusterLostError(f"the cluster has had no node for a worker ({size}) for {self._patience:g} s")

    def _look(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            try:
                nodes = self._nodes()
            except ClusterLostError:
                continue
            now = time.monotonic()
            wanted = self._grant
            self.nodes = sum(node.gpus >= 1 if wanted.gpus else node.cpus >= wanted.cpus for node in nodes)
            if self.nodes:
                self._held = now
            self._answered = now  # after the other: it is read in between
            self._heard.set()
