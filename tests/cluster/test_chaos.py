"""Fifty kills of workers, nodes and drivers at random moments: what is committed stays, every run ends the same."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from ray.cluster_utils import Cluster
from support.interruptions import hashes
from support.nodes import cluster_of, raylet, submit, workers

from qkatlas.cluster.in_process import InProcessExecutor
from qkatlas.jobs.full_vocab.job import FullVocabJob
from qkatlas.jobs.full_vocab.spec import FullVocab
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.loop.service import submit as submit_here
from qkatlas.outputs.runs import soundness
from qkatlas.outputs.runs.journal import Journal
from qkatlas.outputs.runs.part import faults
from qkatlas.outputs.runs.run import Run
from qkatlas.pipeline.planted.checkpoint import PlantedDesign

pytestmark = pytest.mark.cluster

SEED = 20261121
KILLS = {"worker": 32, "node": 13, "driver": 5}
SHARDS = 800
MOST_BETWEEN = 40
"""Receipts between two kills, at most."""
SECONDS = 1200.0
"""A run that hangs fails the test."""


class Chaos:
    """Submits a request again and again, and kills what computes it.

    Args:
        cluster: a head and nodes of one CPU.
        model: directory of the model.
        out: where the runs go, one folder after the other.
        expected: the run that nobody disturbed.
    """

    def __init__(self, cluster: Cluster, model: Path, out: Path, expected: Run) -> None:
        self.cluster = cluster
        self.model = model
        self.out = out
        self.expected = expected
        self.finished = self.incomplete = 0
        self.driver: subprocess.Popen[str] | None = None
        self.deadline = time.monotonic() + SECONDS

    @property
    def run(self) -> Run:
        return Run(self.out / str(self.finished) / self.expected.folder.name)

    def receipts(self) -> int:
        journal = Path(self.run.folder, "_state/receipts.jsonl")
        return journal.read_bytes().count(b"\n") if journal.exists() else 0

    def proceed(self, receipts: int) -> None:
        """Let the service compute until there are so many receipts more, through as many runs as that takes."""
        seen = self.receipts()
        while receipts > 0:
            assert time.monotonic() < self.deadline, "the runs hang"
            ended = None if self.driver is None else self.driver.poll()
            if ended is None and self.driver is not None:
                time.sleep(0.02)
            elif ended == 0:
                self.finish()
                seen = 0
            else:
                # 1: shards were listed, since their workers were killed more often than they are tried again.
                assert ended in (None, 1, -signal.SIGKILL), (self.out / "log").read_text()
                self.incomplete += ended == 1
                self.start()
            now = self.receipts()
            receipts -= now - seen
            seen = now

    def start(self) -> None:
        arguments = ("--model", self.model, "--shards", SHARDS, "--out", self.run.folder.parent)
        address = self.cluster.address
        self.driver = submit("full-vocab", *arguments, "--address", address, "--gpus", 0, log=self.out / "log")

    def finish(self) -> None:
        """Check a run that ended by itself, and go on with a fresh one."""
        assert soundness.faults(self.run) == []
        assert hashes(self.run) == hashes(self.expected)
        vocab_size = self.expected_rows()
        for table in ("topk", "self"):
            tokens = ds.dataset(self.run.folder / table, partitioning="hive").to_table()["token_id"].to_pylist()
            assert sorted(tokens) == list(range(vocab_size))
        self.finished += 1
        self.driver = None

    def expected_rows(self) -> int:
        manifest = self.expected.manifest()
        assert manifest is not None
        return int(manifest.request.model["architecture"]["vocab_size"])

    def kill(self, what: str, random: random.Random) -> None:
        """Kill one of a kind, then make sure that every receipt still stands for what is on disk."""
        if what == "driver":
            assert self.driver is not None
            self.driver.kill()
            self.driver.wait()
        elif what == "node":
            self.cluster.remove_node(random.choice(sorted(self.cluster.worker_nodes, key=raylet)), allow_graceful=False)
            self.cluster.add_node(wait=False, num_cpus=1)
        else:
            everyone = [process for node in self.cluster.list_all_nodes() for process in workers(node)]
            if not everyone:
                return self.kill("node", random)
            os.kill(random.choice(everyone), signal.SIGKILL)
        receipts = Journal(self.run.folder.log("_state/receipts.jsonl")).read().values()
        assert faults(self.run.folder, [part for receipt in receipts for part in receipt.parts], hashed=True) == {}
        return None


@pytest.fixture(scope="module")
def planted_small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from qkatlas.jobs.inputs.resolve import write_planted

    folder = tmp_path_factory.mktemp("planted") / "small"
    write_planted(PlantedDesign(size="small"), folder)
    return folder


def test_fifty_kills_lose_nothing_and_change_nothing(planted_small: Path, tmp_path: Path) -> None:
    job = FullVocabJob(FullVocab(shards=SHARDS), Model.open("planted-small", planted_small))
    expected = submit_here(job, out=tmp_path / "undisturbed", executor=InProcessExecutor()).run
    print(f"seed {SEED}")  # shown if the test fails
    draw = random.Random(SEED)
    schedule = draw.sample(list(KILLS), sum(KILLS.values()), counts=list(KILLS.values()))
    assert len(schedule) == 50
    out = tmp_path / "chaos"
    out.mkdir()
    started = time.monotonic()
    with cluster_of({"num_cpus": 1}, {"num_cpus": 1}) as cluster:
        chaos = Chaos(cluster, planted_small, out, expected)
        try:
            for number, what in enumerate(schedule):
                chaos.proceed(draw.randint(1, MOST_BETWEEN))
                chaos.kill(what, draw)
                print(
                    f"{time.monotonic() - started:5.0f} s: kill {number + 1}, {what}; run {chaos.finished}", flush=True
                )
            last = chaos.finished
            while chaos.finished == last:
                chaos.proceed(1)
        finally:
            if chaos.driver is not None and chaos.driver.poll() is None:
                chaos.driver.kill()
                chaos.driver.wait()
    print(f"{chaos.finished} runs, {chaos.incomplete} exits with 1")
    assert chaos.finished >= 2
