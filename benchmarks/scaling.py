"""What the loop itself costs: shards a second, and the driver's own work, as workers and shards grow.

    python -m benchmarks.scaling                  # 1 to 512 workers, 1000 to 100000 shards
    python -m benchmarks.scaling --quick          # under a minute
    python -m benchmarks.scaling --ray            # the same through Ray, on as many processes as there are cores

The job is the smallest there can be: a shard sleeps, and writes one part of one row. The loop, the journal, the store
and the executor's queue are the real ones.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, ClassVar, Self

import click
import pyarrow as pa

from qkatlas.cluster.executor import Capacity, Grant, Node, Outcome
from qkatlas.cluster.in_process import InProcessExecutor
from qkatlas.cluster.memory import peak_memory
from qkatlas.cluster.ray_cluster import RayExecutor
from qkatlas.jobs.loop.job import Host, Job
from qkatlas.jobs.loop.service import submit
from qkatlas.jobs.loop.step import AnyStep, Produced, Step
from qkatlas.jobs.loop.table import Table
from qkatlas.outputs.runs import soundness
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.shard import Shard

WORKERS = (1, 2, 4, 8, 64, 512)
SHARDS = (1000, 10_000, 100_000)

SHARDS_PER_HEAD = 1000
"""Parts in a folder, as a large vocabulary has them."""


class Simulated(InProcessExecutor):
    """Workers that are threads: any number of them, each busy with one shard."""

    name = "simulated"

    def __init__(self, workers: int) -> None:
        super().__init__()
        self._workers = workers

    def capacity(self) -> Capacity:
        """As many CPUs as workers."""
        return Capacity((Node(cpus=1, gpus=0),) * self._workers)

    def map(
        self, function: Callable[..., Any], tasks: Iterable[tuple[Any, tuple[Any, ...]]]
    ) -> Iterator[Outcome[Any, Any]]:
        """Two shards in flight a worker, as on Ray."""
        remaining = iter(tasks)
        flying: dict[Future[Any], Any] = {}
        with ThreadPoolExecutor(self._workers) as pool:
            while True:
                while len(flying) < 2 * self._workers and (task := next(remaining, None)) is not None:
                    item, arguments = task
                    flying[pool.submit(function, self._grant, item, *arguments)] = item
                if not flying:
                    return
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    yield Outcome(flying.pop(future), future.result())


class Queueing(RayExecutor):
    """Ray with the cores of this machine, and the queue that so many workers would have."""

    def __init__(self, workers: int) -> None:
        super().__init__()
        self._queued_for = workers

    def start(self, grant: Grant) -> None:
        """One core a worker."""
        super().start(Grant(cpus=1, gpus=0, workers=1))
        self._grant = Grant(cpus=1, gpus=0, workers=self._queued_for)


class Named:
    """A model of which only the identity matters here."""

    name = "none"
    identity: ClassVar[dict[str, Any]] = {"weights_sha256": "0" * 64}


def sleep(grant: Grant, shard: Shard, shared: str, seconds: float) -> Produced:
    """Sleep, and write a row."""
    time.sleep(seconds)
    return Produced({"sleep": pa.table({"token_id": pa.array([shard.bounds["part"]], pa.int32())})})


class SleepJob(Job[None]):
    """Shards that sleep and write one row."""

    name = "sleep"
    tables = (
        Table(
            name="sleep", rows="one row", schema=pa.schema([("token_id", pa.int32())]),
            file="sleep/layer=0/head={head}/part-{part:05d}.parquet",
        ),
    )  # fmt: skip
    shows = ("sleep",)
    look = ("sleep", "")

    def __init__(self, shards: int, seconds: float) -> None:
        self._shards, self._seconds = shards, seconds

    @classmethod
    def open(cls, spec: None, host: Host) -> Self:
        """No command opens it."""
        raise NotImplementedError

    @property
    def model(self) -> Named:
        """None that matters."""
        return Named()

    def settings(self) -> dict[str, Any]:
        """What tells one measurement from another."""
        return {"shards": self._shards}

    def steps(self) -> Sequence[AnyStep]:
        """One shard a row."""
        places = (divmod(number, SHARDS_PER_HEAD) for number in range(self._shards))
        shards = [
            Shard(f"s{number:06d}", "all", {"head": head, "part": part}, "sleep")
            for number, (head, part) in enumerate(places)
        ]
        seconds = self._seconds
        return [Step(kind="sleep", shards=shards, share=lambda _: "nothing", each=lambda _: seconds, compute=sleep)]

    def reduce(self, run: Run) -> Mapping[str, pa.Table]:
        """Nothing."""
        return {}

    def answer(self, run: Run) -> str:
        """Nothing."""
        return ""


@click.command()
@click.option("--quick", is_flag=True, help="A tenth of the shards.")
@click.option("--ray", "on_ray", is_flag=True, help="Through Ray, on the cores there are.")
@click.option("--out", default=None, metavar="DIR", help="Where to write.  [default: a temporary folder]")
def main(quick: bool, on_ray: bool, out: str | None) -> None:
    """Print a row for each number of workers, then one for each number of shards."""
    fraction = 10 if quick else 1
    with tempfile.TemporaryDirectory(dir=out) as temporary:
        print("workers  shards  sleep s  shards/s  of what they could do  driver's CPU ms/shard")
        for workers in WORKERS:
            # Ray's workers here are as many as the cores, whatever the queue: only what the driver spends counts.
            seconds = 0.0 if on_ray else 1.0 if workers > 8 else 0.1
            shards = (2000 if on_ray else int(20 * workers / seconds)) // fraction
            row = measure(Path(temporary, f"{workers}"), workers, shards, seconds, on_ray=on_ray)
            ideal = -(-shards // workers) * seconds
            print(
                f"{workers:7}  {shards:6}  {seconds:7.1f}  {shards / row['compute']:8.1f}  "
                f"{ideal / row['compute']:21.0%}  {row['cpu'] / shards * 1e3:21.2f}",
                flush=True,
            )
        print("\n shards  plan s  compute s  driver's CPU ms/shard  commit s  again s  resume s  verify s  peak MB")
        for shards in SHARDS:
            row = measure(Path(temporary, "many"), 8, shards // fraction, 0.0, on_ray=on_ray)
            print(
                f"{shards // fraction:7}  {row['plan']:6.2f}  {row['compute']:9.1f}  "
                f"{row['cpu'] / shards * fraction * 1e3:21.2f}  {row['commit']:8.2f}  {row['again']:7.2f}  "
                f"{row['resume']:8.2f}  {row['verify']:8.2f}  {row['peak_mb']:7.0f}",
                flush=True,
            )


def measure(out: Path, workers: int, shards: int, seconds: float, *, on_ray: bool) -> dict[str, float]:
    """Run a job, submit it again as it is and without its manifest, and verify it.

    Args:
        out: folder of the run.
        workers: shards computed at a time.
        shards: how many there are.
        seconds: that a shard sleeps.
        on_ray: whether workers are Ray's; then as many compute at a time as there are cores, and the others only queue.

    Returns:
        Seconds of each stage; `cpu`, the driver's own processor seconds while it computed; `peak_mb` of its memory.
    """
    job = SleepJob(shards, seconds)
    begun = time.thread_time()
    with Queueing(workers) if on_ray else Simulated(workers) as executor:
        result = submit(job, out=out, executor=executor)
    row = {"cpu": time.thread_time() - begun, "compute": result.seconds["computing and writing"]}
    row |= {"plan": result.seconds["looking"], "commit": result.seconds["committing"]}
    assert not result.failures
    run = result.run
    row["again"] = _seconds(lambda: submit(job, out=out, executor=Simulated(workers)))
    run.reopen()
    row["resume"] = _seconds(lambda: submit(job, out=out, executor=Simulated(workers)))
    row["verify"] = _seconds(lambda: soundness.faults(run))
    assert not soundness.faults(run)
    return {**row, "peak_mb": peak_memory() / 2**20}


def _seconds(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
