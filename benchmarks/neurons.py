"""How long `submit neurons` takes on the full planted model, and what it holds: `python -m benchmarks.neurons`.

The planted checkpoint with a contextual group is made first and is no part of the time. Memory is the peak of the
process, which is driver and worker in one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from benchmarks.machine import describe_machine
from qkatlas.cluster.in_process import InProcessExecutor
from qkatlas.cluster.memory import peak_memory
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.loop.service import submit
from qkatlas.jobs.neurons.job import NeuronsJob
from qkatlas.jobs.neurons.spec import Neurons
from qkatlas.outputs.runs.reader import read_whole


@click.command()
@click.option("--size", default="full", show_default=True, help="Size of the planted checkpoint.")
@click.option("--latents", default=Neurons.latents, show_default=True, help="Neurons whose latents are looked for.")
def main(size: str, latents: int) -> None:
    """Time one run in this process, on all its cores."""
    print(describe_machine(os.cpu_count() or 1))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        made = ["model", "planted", str(folder / "model"), "--size", size, "--neurons"]
        subprocess.run([sys.executable, "-m", "qkatlas", *made], check=True)
        truth = json.loads((folder / "model" / "truth.json").read_text())["neurons"]
        started, worked = time.perf_counter(), time.process_time()
        spec = Neurons(group=",".join(truth["group"]), latents=latents)
        job = NeuronsJob(spec, Model.open("planted", folder / "model"))
        result = submit(job, out=folder / "runs", executor=InProcessExecutor(), gpus=0)
        seconds, busy = time.perf_counter() - started, time.process_time() - worked
        stages = ", ".join(f"{name} {taken:.1f} s" for name, taken in result.seconds.items())
        rows = read_whole(result.run, "neurons").to_pylist()
        tokens = read_whole(result.run, "tokens").num_rows
        peak = peak_memory() >> 20
        print(f"{len(rows)} neurons over {tokens} tokens in {seconds:.1f} s ({stages})")
        print(f"{busy:.1f} s of processors; on machines that others share the better measure")
        print(f"peak memory {peak} MB")
        for name in ("log_ratio", "topics"):
            row = rows[truth[name]["neuron"]]
            print(f"{name}: r_group {row['r_group']:.4f}, fvu_group {row['fvu_group']:.4f}, latents {row['n_latents']}")


if __name__ == "__main__":
    main()
