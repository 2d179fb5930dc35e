"""`--address` joins a cluster that is there already, and says what that cluster has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.cluster

PROGRAM = """
import sys
from ray.cluster_utils import Cluster
from qkatlas.jobs.main import run

model, out = sys.argv[1:]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1, num_gpus=3)
cluster.wait_for_nodes()
request = ["full-vocab", "--model", model, "--out", out, "--shards", "4", "--address", cluster.address]
codes = [run([*request, "--gpus", "4", "--wait", "1"]), run([*request, "--gpus", "0"])]
cluster.shutdown()
print(codes)
"""


def test_a_joined_cluster_is_used_and_its_limits_are_named(planted_tiny: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(planted_tiny), str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.stdout.strip().endswith("[2, 0]"), done.stderr
    assert "waiting up to 1 s for 4 GPUs; the cluster has 2 nodes, 2 CPUs and 3 GPUs\n" in done.stderr
    assert "--gpus 4 is more than the cluster has (2 nodes, 2 CPUs and 3 GPUs)" in done.stderr
    assert "4 shards in" in done.stdout
