"""The deployment files that are YAML: valid by Ray's own schema, and true to themselves and to our command line."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import pytest
import yaml

from qkatlas.jobs.main import submit

DEPLOY = Path(__file__).parents[2] / "cluster/deploy"


@pytest.fixture(scope="module")
def job() -> dict:
    return yaml.safe_load((DEPLOY / "kuberay-rayjob.yaml").read_text())


def parsed(command: str) -> click.Context:
    """A command line of ours, parsed but not run; a click.UsageError if it does not exist."""
    program, name, *arguments = shlex.split(command)
    assert program == "submit"
    return submit.commands[name].make_context(name, arguments)


def test_the_cluster_is_valid_to_ray() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((DEPLOY / "ray-cluster.yaml").read_text()))
    validate_config(config)
    types = config["available_node_types"]
    assert types["head"]["resources"]["CPU"] == 0
    assert types["gpu"]["resources"]["GPU"] * types["gpu"]["max_workers"] == 8
    assert config["max_workers"] == types["gpu"]["max_workers"]
    assert types["gpu"]["resources"]["CPU"] >= 4
    with pytest.raises(Exception, match="max_worker"):
        validate_config({**config, "max_worker": 1})


def test_the_kuberay_job_is_a_command_of_ours(job: dict) -> None:
    options = parsed(job["spec"]["entrypoint"]).params
    assert options["address"] == "auto"
    assert options["out"].startswith("s3://")
    workers = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert options["gpus"] == sum(
        group["replicas"] * int(group["rayStartParams"]["num-gpus"]) for group in workers
    )  # fmt: skip


def test_the_kuberay_pods_get_what_ray_is_told(job: dict) -> None:
    spec = job["spec"]["rayClusterSpec"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        limits = container["resources"]["limits"]
        assert limits == container["resources"]["requests"]
        started = group["rayStartParams"]
        assert int(started["num-gpus"]) == int(limits.get("nvidia.com/gpu", 0))
        assert int(started["num-cpus"]) in (0, int(limits["cpu"]))
        (volume,) = pod["volumes"]
        store = int(volume["emptyDir"]["sizeLimit"].removesuffix("Gi")) << 30
        assert volume["emptyDir"]["medium"] == "Memory"
        assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/dev/shm"}]
        assert int(started["object-store-memory"]) <= store < int(limits["memory"].removesuffix("Gi")) << 30
    for group in spec["workerGroupSpecs"]:
        assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]


def test_one_image_and_the_pinned_ray_everywhere(job: dict) -> None:
    spec = job["spec"]["rayClusterSpec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    images = {group["template"]["spec"]["containers"][0]["image"] for group in groups}
    images.add(yaml.safe_load((DEPLOY / "ray-cluster.yaml").read_text())["docker"]["image"])
    assert images == {"REGISTRY/qkatlas:0.1.0"}
    assert f"ray=={spec['rayVersion']}\n" in (DEPLOY.parents[1] / "constraints.txt").read_text()


def test_the_image_holds_every_package() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    for package in ("src", "cluster", "jobs", "outputs", "pipeline"):
        assert f"COPY {package} {package}" in lines
    assert "COPY docs/package.md docs/" in lines  # which pyproject.toml reads
    assert not list(DEPLOY.rglob("*.py"))


def test_sizes_cover_what_the_plan_says(job: dict) -> None:
    from qkatlas.jobs.head_scan.plan import plan_head_scan
    from qkatlas.jobs.head_scan.spec import HeadScan
    from qkatlas.jobs.plan.shape import PRESETS

    memory = plan_head_scan(PRESETS["gpt2-xl"], HeadScan()).memory
    spec = job["spec"]["rayClusterSpec"]

    def limit(group: dict) -> int:
        return int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"].removesuffix("Gi")) << 30

    assert memory.driver + memory.shared + 2e9 < limit(spec["headGroupSpec"])
    assert memory.worker + memory.shared + 1e9 < limit(spec["workerGroupSpecs"][0])
    for script, most in (("slurm-one-node.sh", 24), ("slurm-many-nodes.sh", 24)):
        assert f"#SBATCH --mem={most}G" in (DEPLOY / script).read_text()
    assert 4 * memory.worker + memory.shared + memory.driver + 1.5e9 < 24 << 30
