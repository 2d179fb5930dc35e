"""The executor without a cluster: every item in this process, one after the other."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from qkatlas.cluster.cpus import local_cpus
from qkatlas.cluster.executor import Capacity, Failure, Grant, Handle, Item, Node, Outcome, Value


class InProcessExecutor(AbstractContextManager["InProcessExecutor"]):
    """Runs items in the calling process; for tests, debugging, and machines where Ray cannot start."""

    name = "in-process"

    def __init__(self) -> None:
        self._grant = Grant(cpus=1, gpus=0, workers=1)

    def capacity(self) -> Capacity:
        """The cores this process may use; a GPU is left to the Ray executor."""
        return Capacity((Node(local_cpus(), 0),))

    def start(self, grant: Grant) -> None:
        """Take the grant."""
        self._grant = grant

    def put(self, value: Any) -> Handle:
        """Keep a reference."""
        return Handle(value)

    def map(
        self, function: Callable[..., Value], tasks: Iterable[tuple[Item, tuple[Any, ...]]]
    ) -> Iterator[Outcome[Item, Value]]:
        """Call the function for each task in turn; see `Executor.map`."""
        for item, arguments in tasks:
            values = [argument.reference if isinstance(argument, Handle) else argument for argument in arguments]
            try:
                value = function(self._grant, item, *values)
            except Exception as error:  # whatever the function raised is the item's outcome
                failure = Failure(type(error).__name__, str(error), traceback.format_exc())
                yield Outcome(item, failure=failure)
            else:
                yield Outcome(item, value)

    def close(self) -> None:
        """Nothing to stop."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
