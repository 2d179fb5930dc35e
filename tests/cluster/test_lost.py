"""Submissions that cannot be finished: they exit with 1 and the list, and the next one goes on from there."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from support.interruptions import hashes
from support.nodes import cluster_of, kill_head, raylet, submit, until

from qkatlas.cluster.executor import Grant
from qkatlas.cluster.in_process import InProcessExecutor
from qkatlas.cluster.ray_cluster import RayExecutor
from qkatlas.jobs.full_vocab.job import FullVocabJob
from qkatlas.jobs.full_vocab.spec import FullVocab
from qkatlas.jobs.full_vocab.work import Sides, score_shard
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.loop.service import submit as submit_here
from qkatlas.jobs.loop.step import AnyStep, Produced
from qkatlas.jobs.worker.prepared import Rows
from qkatlas.outputs.runs import soundness
from qkatlas.outputs.runs.journal import Journal
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.runs.shard import Shard

pytestmark = pytest.mark.cluster

SHARDS = 500


@pytest.fixture(scope="module")
def undisturbed(planted_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    job = FullVocabJob(FullVocab(shards=SHARDS), Model.open("tiny", planted_tiny))
    return submit_here(job, out=tmp_path_factory.mktemp("undisturbed"), executor=InProcessExecutor()).run


@pytest.mark.parametrize("what", ["the control store", "the head node"])
def test_a_lost_cluster_ends_with_the_list_and_is_resumed(
    what: str, planted_tiny: Path, undisturbed: Run, tmp_path: Path
) -> None:
    request = ("full-vocab", "--model", planted_tiny, "--out", tmp_path, "--shards", SHARDS)
    run = Run(tmp_path / undisturbed.folder.name)
    journal = Journal(run.folder.log("_state/receipts.jsonl"))
    # A worker beside the head would go on without the control store, and might do all the rest before it is missed.
    with cluster_of({"num_cpus": 1}, head=0) as cluster:
        driver = submit(*request, "--address", cluster.address)
        until(lambda: len(journal.read()) >= 5, "a fifth receipt", 120)
        os.kill(driver.pid, signal.SIGSTOP)  # so that the rest is not done before the kill takes effect
        if what == "the head node":
            os.kill(raylet(cluster.head_node), signal.SIGKILL)
        kill_head(cluster)
        for node in cluster.worker_nodes:
            os.kill(raylet(node), signal.SIGKILL)
        os.kill(driver.pid, signal.SIGCONT)
        _, errors = driver.communicate(timeout=120)
    done = len(journal.read())
    assert 5 <= done < SHARDS
    assert driver.returncode == 1, errors
    assert f"{SHARDS - done} shards failed" in errors
    assert errors.count("was not computed: ClusterLost: the") == 20  # more are in the log only
    assert (
        sum(line.startswith("shard ") for line in Path(str(run.failure_log)).read_text().splitlines()) == SHARDS - done
    )

    resumed = submit(*request, "--in-process")
    _, errors = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, errors
    assert f"{done} of {SHARDS} shards are there already" in errors
    assert hashes(run) == hashes(undisturbed)
    assert soundness.faults(run) == []


class OneBadShard(FullVocabJob):
    """A shard of it cannot be computed; each try leaves a line."""

    tries: Path

    def steps(self) -> Sequence[AnyStep]:
        (rows,) = super().steps()
        tries = self.tries

        def compute(grant: Grant, shard: Shard, shared: Rows[Sides], k: int) -> Produced:
            with tries.open("a") as stream:
                stream.write(f"{shard.name}\n")
            if shard.bounds["part"] == 3:
                raise ValueError("a slip in the program")
            return score_shard(grant, shard, shared, k)

        return [replace(rows, compute=compute)]


def test_an_error_of_the_program_fails_its_shard_once_and_no_other(planted_tiny: Path, tmp_path: Path) -> None:
    model = Model.open("tiny", planted_tiny)
    bad = OneBadShard(FullVocab(shards=8), model)
    bad.tries = tmp_path / "tries"
    with RayExecutor() as executor:
        result = submit_here(bad, out=tmp_path, executor=executor, gpus=0)
        (name,) = result.failures
        assert str(result.failures[name]) == "ValueError: a slip in the program"
        assert result.computed == 7
        assert sorted(bad.tries.read_text().split()) == sorted(shard.name for shard in bad.plan())
        log = Path(str(result.run.failure_log)).read_text()
        assert log.startswith(f"shard {name}\n")
        assert 'raise ValueError("a slip in the program")' in log
        assert result.run.manifest() is None

        mended = submit_here(FullVocabJob(FullVocab(shards=8), model), out=tmp_path, executor=executor, gpus=0)
    assert (mended.failures, mended.computed) == ({}, 1)
    assert soundness.faults(mended.run) == []


def test_waiting_is_for_clusters_that_are_joined(planted_tiny: Path, tmp_path: Path) -> None:
    refused = submit("full-vocab", "--model", planted_tiny, "--out", tmp_path / "out", "--wait", "5")
    _, errors = refused.communicate(timeout=60)
    assert refused.returncode == 2
    assert errors == "submit: error: --wait 5 needs --address; only a cluster that is joined can grow\n"
    assert not (tmp_path / "out").exists()
