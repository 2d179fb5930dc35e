"""What a job tells the loop, the command line, the report and the docs about itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar

import pyarrow as pa

from qkatlas.cluster.executor import Grant
from qkatlas.jobs.loop.request import Request
from qkatlas.jobs.loop.result import Result
from qkatlas.jobs.loop.step import AnyStep, Context
from qkatlas.jobs.loop.table import Table
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.shard import Shard

if TYPE_CHECKING:
    from rich.console import RenderableType

Spec = TypeVar("Spec")


class Input(Protocol):
    """Something that a job stands on: a model, or a run that it goes on from."""

    @property
    def name(self) -> str:
        """What the user called it."""
        ...

    @property
    def identity(self) -> dict[str, Any]:
        """What of it changes results."""
        ...


class Host(Protocol):
    """What a job may ask of the submission that it is opened for."""

    @property
    def request(self) -> Request:
        """The options that jobs share."""
        ...

    @property
    def loaded(self) -> Any:
        """A model that the caller holds in memory, a `LoadedModel`; None = the one that the request names."""
        ...

    def say(self, line: str) -> None:
        """Show a line while the job runs."""
        ...

    def submit(self, job: Job[Any], *, opened: str = ...) -> Result:
        """Run a job that this one stands on."""
        ...


class Job(ABC, Generic[Spec]):
    """A request, fitted to what it stands on.

    Attributes:
        name: of the command.
        tables: what it leaves on disk.
        shows: names of the tables that the end of a submission points to, the first ones first.
        look: a path to open in pandas at the end, and what pandas may do with it, such as `.describe()`.
        opened: what was done before it could be submitted, for the timings.
        threads: threads that one of its shards keeps busy.
        spec: what is asked for.
        model: the model whose results these are, or the run that stands for it.
    """

    name: ClassVar[str]
    tables: ClassVar[tuple[Table, ...]]
    shows: ClassVar[tuple[str, ...]]
    look: tuple[str, str]
    opened: ClassVar[str] = "opening the model"
    threads: ClassVar[int] = Grant.MOST_CPUS
    spec: Spec

    @classmethod
    @abstractmethod
    def open(cls, spec: Spec, host: Host) -> Self:
        """Open what the job stands on, and fit the request to it.

        Raises:
            ValueError: if there is no such thing, or the request does not fit it.
        """

    @property
    @abstractmethod
    def model(self) -> Input:
        """The model whose results these are, or the run that stands for it."""

    @abstractmethod
    def steps(self) -> Sequence[AnyStep]:
        """What is computed, in order; its shards are the plan."""

    @abstractmethod
    def reduce(self, run: Run) -> Mapping[str, pa.Table]:
        """The tables of the whole run, by name, from what its shards left."""

    @abstractmethod
    def answer(self, run: Run) -> RenderableType:
        """What a person wants to see of the finished run: a small table."""

    def settings(self) -> dict[str, Any]:
        """The settings that change results; JSON values."""
        return asdict(self.spec)  # type: ignore[call-overload,no-any-return]

    def notes(self) -> Iterable[str]:
        """Lines to show before anything is computed."""
        return ()

    def prepare(self, context: Context) -> None:
        """Compute on the driver what can show that the request cannot be met.

        Raises:
            ValueError: if it shows that; nothing was written.
        """

    def scores_in(self, shard: Shard) -> int:
        """Scores a shard computes, for progress; 0 where a job computes none."""
        return 0

    def plan(self) -> list[Shard]:
        """The shards, the same on every machine."""
        return [shard for step in self.steps() for shard in step.shards]

    def covers(self, shards: Sequence[Shard]) -> bool:
        """Whether shards of an earlier submission, however cut, are all of the job.

        Of a job that lets shards be cut in several ways they become those of its steps, each step's by their kind.
        """
        return list(shards) == self.plan()

    def finished(self, run: Run) -> None:
        """Whatever is left to do with the finished run, such as a file that was asked for beside it."""
