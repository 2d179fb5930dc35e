"""A job of three small steps, for tests of the loop: numbers, products of their sum, and something apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from qkatlas.cluster.executor import Grant, Outcome
from qkatlas.cluster.in_process import InProcessExecutor
from qkatlas.jobs.loop.job import Host, Job
from qkatlas.jobs.loop.result import Result
from qkatlas.jobs.loop.service import submit
from qkatlas.jobs.loop.step import AnyStep, Context, Produced, Step
from qkatlas.jobs.loop.table import Table
from qkatlas.outputs.runs.reader import read_parts
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.shard import Shard

VALUES = pa.schema([pa.field("value", pa.int64(), nullable=False)])
PART = "{name}/part-{{part:05d}}.parquet"

EVENTS: list[str] = []
"""What driver and workers did, in order; of this process."""


@dataclass(frozen=True)
class Source:
    """What the job is about."""

    name: str = "toy"
    identity: dict[str, Any] = field(default_factory=lambda: {"weights_sha256": "0" * 64})


@dataclass(frozen=True, kw_only=True)
class Toy:
    """What is asked for."""

    count: int = 3
    products: int = 2


@dataclass(frozen=True)
class Numbers:
    """What numbers are made from; `bits` is the arithmetic of the machine that made it."""

    bits: int


@dataclass(frozen=True)
class Sum:
    """The sum of the committed numbers."""

    total: int


def write_number(grant: Grant, shard: Shard, numbers: Numbers, each: int) -> Produced:
    EVENTS.append(shard.name)
    return Produced({"numbers": _table([each + numbers.bits])}, {"value": each + numbers.bits}, {"device": "abacus"})


def write_product(grant: Grant, shard: Shard, shared: Sum, factor: int) -> Produced:
    EVENTS.append(shard.name)
    return Produced({"products": _table([shared.total * factor])})


def write_apart(grant: Grant, shard: Shard, shared: str, each: None) -> Produced:
    EVENTS.append(shard.name)
    return Produced({}, {"said": shared})


def _table(values: Sequence[int]) -> pa.Table:
    return pa.table({"value": list(values)}, schema=VALUES)


class ToyJob(Job[Toy]):
    """Numbers, then products of their sum; and a step that stands on neither.

    Args:
        spec: what is asked for.
        bits: the machine's arithmetic.
        write: what workers do for a number.
        one_group: whether numbers and products are one group, and have one digest: what is shared with the products is
            known by the numbers' own, and there is none where these are of other bits.
        per_device: of the numbers.
    """

    name = "toy"
    tables = (
        Table(name="sum", rows="one row", schema=VALUES),
        Table(name="numbers", rows="one row", schema=VALUES, file=PART.format(name="numbers"), kinds=("number",)),
        Table(name="products", rows="one row", schema=VALUES, file=PART.format(name="products"), kinds=("product",)),
    )
    shows = ("sum",)
    look = ("sum.parquet", "")

    def __init__(
        self,
        spec: Toy | None = None,
        *,
        bits: int = 0,
        write: Callable[..., Produced] = write_number,
        one_group: bool = False,
        per_device: bool = False,
    ) -> None:
        self.spec = spec or Toy()
        self._bits, self._write, self._one_group, self._per_device = bits, write, one_group, per_device
        self.numbers = self._shards("number", self.spec.count)
        self.products = self._shards("product", self.spec.products)

    def _shards(self, kind: str, count: int) -> list[Shard]:
        group = "all" if self._one_group else kind
        return [Shard(f"{kind}-{part}", group, {"part": part}, kind) for part in range(count)]

    @classmethod
    def open(cls, spec: Toy, host: Host) -> Self:
        return cls(spec)

    @property
    def model(self) -> Source:
        return Source()

    def steps(self) -> Sequence[AnyStep]:
        numbers = Step(
            kind="number",
            shards=self.numbers,
            share=self.share_numbers,
            each=lambda shard: 10 * shard.bounds["part"],
            compute=self._write,
            per_device=self._per_device,
        )
        apart = Step(
            kind="apart",
            shards=[Shard("apart-0", "apart", {"part": 0}, "apart")],
            share=self.share_apart,
            each=lambda shard: None,
            compute=write_apart,
        )
        products = Step(
            kind="product",
            shards=self.products,
            share=self.share_sum,
            each=lambda shard: 1 + shard.bounds["part"],
            compute=write_product,
            after=[numbers],
        )
        return [numbers, apart, products]

    def share_numbers(self, context: Context) -> Numbers | None:
        EVENTS.append("share numbers")
        return Numbers(self._bits)

    def share_apart(self, context: Context) -> str | None:
        EVENTS.append("share apart")
        return "apart"

    def share_sum(self, context: Context) -> Sum | Bound | None:
        EVENTS.append("share sum")
        receipts = context.run.receipts()
        mine = [receipts[shard.name] for shard in self.numbers if shard.name in receipts]
        if len(mine) < len(self.numbers):
            return None
        total = sum(receipt.summary["value"] for receipt in mine)
        if not self._one_group:
            return Sum(total)
        (inputs,) = {receipt.inputs for receipt in mine}
        return Bound(total, inputs) if inputs == Bound.of(self._bits) else None

    def reduce(self, run: Run) -> Mapping[str, pa.Table]:
        parts = [part for shard in self.products for part in run.receipts()[shard.name].parts]
        return {"sum": _table([sum(read_parts(run, parts)["value"].to_pylist())])}

    def answer(self, run: Run) -> str:
        return "answer"

    def notes(self) -> Iterator[str]:
        EVENTS.append("notes")
        yield "a note"

    def finished(self, run: Run) -> None:
        EVENTS.append("finished")


@dataclass(frozen=True)
class Bound(Sum):
    """The sum, known by the numbers' own digest, as all that is made from the same states is."""

    inputs: str

    @staticmethod
    def of(bits: int) -> str:
        from qkatlas.jobs.loop.digest import digest_of

        return digest_of(Numbers(bits))

    def identity(self) -> str:
        return self.inputs


def compute(job: Job[Any], out: Path, executor: Any = None, **more: Any) -> Result:
    """Submit a job in this process."""
    return submit(job, out=out, executor=executor or InProcessExecutor(), gpus=0, **more)


def values(run: Run, table: str) -> list[int]:
    """The values of a table's parts of a finished run, in their order."""
    manifest = run.manifest()
    assert manifest is not None
    parts = [part.path for part in manifest.parts if part.path.startswith(f"{table}/")]
    return [
        value
        for path in parts
        for value in pq.read_table(Path(run.folder) / path, partitioning=None)["value"].to_pylist()
    ]


class Counting(InProcessExecutor):
    """Tells how often values are put and shards asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.puts = 0
        self.maps: list[list[str]] = []

    def put(self, value: Any) -> Any:
        self.puts += 1
        return super().put(value)

    def map(self, function: Any, tasks: Any) -> Iterator[Outcome[Any, Any]]:
        asked: list[str] = []
        self.maps.append(asked)
        for outcome in super().map(function, tasks):
            asked.append(outcome.item.name)
            yield outcome
