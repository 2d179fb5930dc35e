"""How near the plans of `submit plan` come to runs: predicted over measured, for each job.

`python -m benchmarks.plan` runs each job twice on this machine's CPUs, in a process of its own: over Ray for everything
but processor time, and without Ray for that, which other work on the machine disturbs less than the clock.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from qkatlas.cluster.cpus import local_cpus
from qkatlas.jobs.full_vocab.plan import plan_full_vocab
from qkatlas.jobs.full_vocab.spec import FullVocab
from qkatlas.jobs.head_scan.plan import plan_head_scan
from qkatlas.jobs.head_scan.spec import HeadScan
from qkatlas.jobs.plan.device import Core
from qkatlas.jobs.plan.plan import Machines, Plan
from qkatlas.jobs.plan.shape import find_shape
from qkatlas.outputs.runs.run import Run

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
    ("head-scan", "planted", {"layers": "1", "heads": "0-3"}),
    ("head-scan", "planted", {"layers": "0-1"}),
)

_RUN = """
import json, resource, sys
from qkatlas.cluster.memory import peak_memory
from qkatlas.jobs.main import run
code = run(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"code": code, "memory": peak_memory(), "processor": used.ru_utime + used.ru_stime}))
"""


@click.command()
@click.option("--quick", is_flag=True, help="Leave the full-size model out.")
def main(quick: bool) -> None:
    """Plan jobs, run them, and compare."""
    print("predicted/measured | shards | files | rows | bytes | worker | driver | clock | processor")
    for job, model, options in QUICK if quick else QUICK + FULL:
        print(line(job, model, options), flush=True)


def line(job: str, model: str, options: dict[str, Any]) -> str:
    """Plan and run one job; its ratios."""
    plan = planned(job, model, options)
    given = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    with tempfile.TemporaryDirectory() as out:
        own = run(job, "--model", model, "--out", out, *given)
        (folder,) = Path(out).iterdir()
        manifest = Run(folder).manifest()
    assert manifest is not None, "the job ended well"
    with tempfile.TemporaryDirectory() as out:
        processor = run(job, "--model", model, "--out", out, "--in-process", *given)["processor"]
    files = 1 + len(manifest.parts)
    worker = 2**20 * max(done.measures.peak_memory_mb or 0 for done in manifest.shards)
    seconds = sum(manifest.provenance.seconds.values()) if manifest.provenance else 0.0
    clock = sum(Machines.of(gpus=0, cpus=local_cpus(), gpu=None).seconds(plan).values())
    core_seconds = Core().start + sum(step.load.core_seconds(Core()) for step in plan.steps)
    # What a process reads from the object store counts as its own in the system's measure.
    resident = plan.memory.worker + plan.memory.shared, plan.memory.driver + plan.memory.shared
    return " | ".join(
        [
            f"{job} {model} {' '.join(given)}".strip(),
            f"{len(plan.shards) / len(manifest.shards):.2f}",
            f"{plan.files / files:.2f}",
            f"{sum(table.rows for table in plan.tables) / manifest.rows:.2f}",
            f"{plan.bytes / manifest.bytes:.2f} of {manifest.bytes / 1e6:.1f} MB",
            f"{resident[0] / worker:.2f} of {worker / 1e9:.2f} GB",
            f"{resident[1] / own['memory']:.2f} of {own['memory'] / 1e9:.2f} GB",
            f"{clock / seconds:.2f} of {seconds:.0f} s",
            f"{core_seconds / processor:.2f} of {processor:.0f} s",
        ]
    )


def run(*arguments: str) -> dict[str, Any]:
    """Run a job in a process of its own; what that used."""
    command = [sys.executable, "-c", _RUN, *arguments, "--gpus", "0", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    used: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert used["code"] == 0, done.stderr
    return used


def planned(job: str, model: str, options: dict[str, Any]) -> Plan:
    """The plan of a job with the command line's defaults."""
    shape = find_shape(model)
    if job == "full-vocab":
        return plan_full_vocab(shape, FullVocab(**options))
    return plan_head_scan(shape, HeadScan(**options))


if __name__ == "__main__":
    main()
