"""How near the plans of `submit plan` come to runs: predicted over measured, for each job.

`python -m benchmarks.plan` runs the jobs over Ray on this machine's CPUs, each in a process of its own, and prints a line
for each. Seconds are compared twice: with the rates that the plans assume, and with these scaled by what a float32 product
reaches at the moment of the run, since a machine that is shared with other work is slower.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import torch

from cluster.in_process import local_cpus
from jobs.head_choice import heads_within
from jobs.scale.device import Core
from jobs.scale.full_vocab import plan_full_vocab
from jobs.scale.head_scan import plan_head_scan
from jobs.scale.plan import Machines, Plan
from jobs.scale.shape import find_shape
from pipeline.head import Head

QUICK = (
    ("full-vocab", "planted-small", {"top_k": 16}),
    ("full-vocab", "planted-small", {"top_k": 64}),
    ("head-scan", "planted-small", {}),
)
"""A job, its model, and its options."""

FULL = (
    ("full-vocab", "planted", {"top_k": 16}),
    ("full-vocab", "planted", {"top_k": 64}),
    ("full-vocab", "planted", {"top_k": 256}),
    ("head-scan", "planted", {"heads": "L0H5,L1H5,L1H6,L2H7"}),
    ("head-scan", "planted", {"layers": "0-1"}),
)

_RUN = """
import json, resource, sys
from jobs.cli import run
code = run(sys.argv[1:])
print(json.dumps({"code": code, "driver": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))
"""


@click.command()
@click.option("--quick", is_flag=True, help="Leave the full-size model out.")
def main(quick: bool) -> None:
    """Plan jobs, run them, and compare."""
    print(
        "predicted/measured        | shards | files | rows | bytes | worker | driver | seconds | at the moment's rate"
    )
    for job, model, options in QUICK if quick else QUICK + FULL:
        with tempfile.TemporaryDirectory() as out:
            print(line(job, model, options, Path(out)), flush=True)


def line(job: str, model: str, options: dict[str, Any], out: Path) -> str:
    """Plan and run one job; its ratios."""
    plan = planned(job, model, options)
    given = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    before = product_rate()
    done = subprocess.run(
        [sys.executable, "-c", _RUN, job, "--model", model, "--gpus", "0", "--quiet", "--out", str(out), *given],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    own = json.loads(done.stdout.splitlines()[-1])
    assert own["code"] == 0, done.stderr
    share = (before + product_rate()) / 2 / (Core().float32 * local_cpus())
    (folder,) = out.iterdir()
    manifest = json.loads((folder / "manifest.json").read_text())
    files = 1 + len(manifest["parts"])
    size, rows = (sum(part[name] for part in manifest["parts"]) for name in ("bytes", "rows"))
    worker = 2**20 * max(shard["measures"]["peak_memory_mb"] for shard in manifest["shards"])
    seconds = sum(manifest["provenance"]["seconds"].values())
    scaled = Core(**{field.name: rate(field.name, share) for field in fields(Core)})
    at_plan, at_moment = (
        sum(Machines.of(gpus=0, cpus=local_cpus(), gpu=None, core=core).seconds(plan).values())
        for core in (Core(), scaled)
    )
    # What a process reads from the object store counts as its own in the system's measure.
    resident = plan.memory.worker + plan.memory.shared, plan.memory.driver + plan.memory.shared
    name = f"{job} {model} {' '.join(given)}"
    return (
        f"{name} | {len(plan.shards) / len(manifest['shards']):.2f} | {plan.files / files:.2f} "
        f"| {sum(table.rows for table in plan.tables) / rows:.2f} | {plan.bytes / size:.2f} "
        f"| {resident[0] / worker:.2f} ({worker / 1e9:.2f} GB) | {resident[1] / own['driver']:.2f} "
        f"({own['driver'] / 1e9:.2f} GB) | {at_plan / seconds:.2f} ({seconds:.0f} s) "
        f"| {at_moment / seconds:.2f} ({share:.2f} of the rate)"
    )


def planned(job: str, model: str, options: dict[str, Any]) -> Plan:
    """The plan of a job with the command line's defaults."""
    shape = find_shape(model)
    if job == "full-vocab":
        return plan_full_vocab(shape, Head(1, 5), states="mlp", top_k=options.get("top_k", 64))
    names = heads_within(
        options.get("layers"), options.get("heads"), n_layers=shape.n_layers, n_heads=shape.n_heads
    )  # fmt: skip
    heads = [Head.parse(name) for name in names]
    return plan_head_scan(shape, heads, states="mlp", top_k=10, prompts=128, length=None)


def rate(name: str, share: float) -> float:
    """A rate of a core that gives a share of what is assumed; times grow as rates fall."""
    value: float = getattr(Core(), name)
    return value / share if name.endswith("_ns") else value * share


def product_rate() -> float:
    """FLOP/s of float32 products on all cores, now."""
    left = torch.ones(4096, 768)
    right = torch.ones(768, 4096)
    left @ right
    started = time.perf_counter()
    rounds = 0
    while time.perf_counter() - started < 2:
        left @ right
        rounds += 1
    return rounds * 2 * 4096**2 * 768 / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
