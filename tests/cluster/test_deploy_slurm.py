"""The Slurm scripts, run with stand-ins for Slurm, ray and submit that record how they are called."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "cluster/deploy"

STUBS = {
    "scontrol": 'for node in $STUB_NODES; do echo "$node"; done',
    # A step runs its command here, and passes a signal on as srun does.
    "srun": """
        echo "srun $*" >> "$STUB_LOG"
        while [ "${1#--}" != "$1" ]; do shift; done
        trap 'kill -TERM $(jobs -p)' TERM
        "$@" &
        wait $!
    """,
    "ray": """
        trap 'echo "ray ended" >> "$STUB_LOG"; exit 0' TERM
        echo "ray $*" >> "$STUB_LOG"
        case "$*" in *"$STUB_DEAD"*) exit 7 ;; esac
        while :; do sleep 0.05; done
    """,
    # Nodes are counted once every ray is there to be ended.
    "python": """
        until [ "$(grep -c '^ray ' "$STUB_LOG")" -ge "$(wc -w <<< "$STUB_NODES")" ]; do sleep 0.02; done
        echo "$STUB_ALIVE"
    """,
    "submit": """
        echo "submit $* token=$(wc -c < "${RAY_AUTH_TOKEN_PATH:-/dev/null}")" >> "$STUB_LOG"
        trap 'echo "submit interrupted" >> "$STUB_LOG"; exit 130' TERM
        for _ in $(seq "$STUB_TICKS"); do sleep 0.05; done
        exit "$STUB_CODE"
    """,
}


class Site:
    """A pretended Slurm site."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        (folder / "bin").mkdir()
        for name, body in STUBS.items():
            stub = folder / "bin" / name
            stub.write_text("#!/usr/bin/env bash\n" + body)
            stub.chmod(0o755)

    def start(self, script: str, *, nodes: int = 1, **stubs: object) -> subprocess.Popen[str]:
        told = {
            "STUB_NODES": " ".join(f"node{number}" for number in range(1, nodes + 1)), "STUB_ALIVE": nodes,
            "STUB_LOG": self.log, "STUB_CODE": 0, "STUB_TICKS": 1, "STUB_DEAD": "no such argument",
            "SLURM_JOB_ID": 10_000_000 + os.getpid(), "SLURM_JOB_NODELIST": "node[1-9]", "SLURM_GPUS_ON_NODE": 4,
            "SLURM_CPUS_PER_TASK": 16, "HOME": self.folder, "QKATLAS_ENV": self.folder,
            "QKATLAS_OUT": self.folder / "runs", "QKATLAS_JOIN_SECONDS": 1, "QKATLAS_POLL_SECONDS": 0.1,
        }  # fmt: skip
        environment = {**os.environ, **{name: str(value) for name, value in {**told, **stubs}.items()}}
        return subprocess.Popen(
            ["bash", str(DEPLOY / script)], env=environment, text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def run(self, script: str, **stubs: object) -> tuple[int, str]:
        process = self.start(script, **stubs)
        _, error = process.communicate(timeout=30)
        return process.returncode, error

    def calls(self, begin: str) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if line.startswith(begin)]

    def require_clean(self, rays: int) -> None:
        """Every ray that ran was ended, and the token and the scratch folder are gone."""
        deadline = time.monotonic() + 10
        while len(self.calls("ray ended")) < rays and time.monotonic() < deadline:
            time.sleep(0.02)  # a ray that is told to end writes it down in its own time
        assert len(self.calls("ray ended")) == rays
        assert not list(self.folder.glob(".qkatlas-token-*"))
        assert not Path(f"/tmp/qkatlas-{10_000_000 + os.getpid()}").exists()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.mark.parametrize("script", ["slurm-one-node.sh", "slurm-many-nodes.sh"])
def test_the_script_is_bash_that_sbatch_reads(script: str) -> None:
    assert subprocess.run(["bash", "-n", str(DEPLOY / script)]).returncode == 0
    lines = (DEPLOY / script).read_text().splitlines()
    directives = [number for number, line in enumerate(lines) if line.startswith("#SBATCH")]
    first_command = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    assert directives
    assert directives[-1] < first_command  # sbatch ignores those that follow


@pytest.mark.parametrize("code", [0, 1, 2])
def test_one_node_ends_with_the_code_of_submit(site: Site, code: int) -> None:
    assert site.run("slurm-one-node.sh", STUB_CODE=code)[0] == code
    (call,) = site.calls("submit")
    assert f"--gpus 4 --out {site.folder}/runs" in call
    site.require_clean(0)


@pytest.mark.parametrize("code", [0, 1, 2])
@pytest.mark.parametrize("nodes", [1, 3])
def test_many_nodes_end_with_the_code_of_submit(site: Site, nodes: int, code: int) -> None:
    assert site.run("slurm-many-nodes.sh", nodes=nodes, STUB_CODE=code)[0] == code
    heads = site.calls("ray start --head --block")
    assert len(heads) == 1
    port = 20000 + (10_000_000 + os.getpid()) % 10000
    assert f"--port={port} " in heads[0]
    assert "--num-cpus=16 --num-gpus=4" in heads[0]
    others = site.calls(f"ray start --block --address=node1:{port} ")
    assert len(others) == nodes - 1
    steps = [line for line in site.calls("srun") if "ray start" in line]
    for number in range(1, nodes + 1):
        assert sum(f"--nodes=1 --ntasks=1 --nodelist=node{number} " in line for line in steps) == 1
    (call,) = site.calls("submit")
    assert f"--gpus {4 * nodes} --address node1:{port} --out {site.folder}/runs token=64" in call
    site.require_clean(nodes)


@pytest.mark.slow
def test_a_node_that_never_joins_is_named_and_everything_ended(site: Site) -> None:
    code, error = site.run("slurm-many-nodes.sh", nodes=3, STUB_ALIVE=2)
    assert code == 1
    assert "only 2 of 3 nodes joined within 1 s" in error
    assert not site.calls("submit")
    site.require_clean(3)


def test_a_ray_that_ends_at_once_is_not_waited_for(site: Site) -> None:
    code, error = site.run("slurm-many-nodes.sh", nodes=3, STUB_ALIVE=1, STUB_DEAD="--address", QKATLAS_JOIN_SECONDS=60)
    assert code == 1
    assert "ray ended on a node before all had joined" in error
    assert not site.calls("submit")
    site.require_clean(1)


@pytest.mark.parametrize(("script", "rays"), [("slurm-one-node.sh", 0), ("slurm-many-nodes.sh", 2)])
def test_the_end_of_the_time_reaches_submit_and_everything_ends(site: Site, script: str, rays: int) -> None:
    process = site.start(script, nodes=2, STUB_TICKS=600)
    deadline = time.monotonic() + 20
    while not (site.log.exists() and site.calls("submit ")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert site.calls("submit interrupted")
    site.require_clean(rays)


def test_the_end_of_the_time_while_nodes_join_ends_everything(site: Site) -> None:
    process = site.start("slurm-many-nodes.sh", nodes=2, STUB_ALIVE=1, QKATLAS_JOIN_SECONDS=60)
    deadline = time.monotonic() + 20
    while not (site.log.exists() and len(site.calls("ray start")) == 2):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 143
    assert not site.calls("submit")
    site.require_clean(2)
