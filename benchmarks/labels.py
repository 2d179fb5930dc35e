"""How often the labels of a head scan are right: on planted checkpoints, and on checkpoints of random weights.

`python -m benchmarks.labels` scans them all and prints one line for each, then the totals.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from itertools import product
from pathlib import Path

import click
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from qkatlas.cluster.in_process import InProcessExecutor
from qkatlas.jobs.head_scan.job import HeadScanJob
from qkatlas.jobs.head_scan.spec import HeadScan
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.resolve import write_checkpoint, write_planted
from qkatlas.jobs.loop.service import submit
from qkatlas.outputs.runs.reader import read_whole
from qkatlas.pipeline.circuit.labels import NONE, UNRELIABLE
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.planted.checkpoint import PlantedDesign, plant
from qkatlas.pipeline.planted.writers import with_writers

WIDTHS = (64, 128)
"""Widths of the random checkpoints, which have 3 layers of 8 heads."""

WRITERS = {"tiny": (Head(2, 3), Head(2, 5)), "small": (Head(2, 3), Head(2, 5)), "full": (Head(11, 3), Head(11, 5))}
"""Where the heads that copy and suppress what they attend to stand, by the size of the planted checkpoint."""

WEIGHT_SCALES = (0.02, 0.1, 0.2)
"""Standard deviation of all weights and biases of a random checkpoint; GPT-2 starts with 0.02 and no biases."""


@click.command()
@click.option("--planted", default=8, show_default=True, help="Seeds of each planted design.")
@click.option("--random", "random_", default=14, show_default=True, help="Random checkpoints of each width and scale.")
@click.option("--size", default="tiny", show_default=True, help="Size of the planted checkpoints.")
def main(planted: int, random_: int, size: str) -> None:
    """Scan planted and random checkpoints and compare the labels with what is known."""
    totals: Counter[str] = Counter()
    noise = 0.15 if size == "tiny" else 0.3
    designs = [
        {}, {"noise": noise}, {"skew": 0.5}, {"head": "L2H3"}, {"head": "L2H3", "noise": noise, "skew": 0.5}
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for settings in designs:
            for seed in range(planted):
                design = PlantedDesign(size=size, seed=seed, **settings)
                planted_ = plant(design)
                if settings.get("head") is None:
                    # Two heads that write what they attend to, or its opposite, in the last layer.
                    places = WRITERS[size]
                    planted_ = with_writers(planted_, copying=places[0], suppressing=places[1])
                write_checkpoint(planted_, folder / "planted")
                truth = json.loads((folder / "planted" / "truth.json").read_text())["heads"]
                found = labels(folder / "planted", folder / "runs")
                wrong = {head: name for head, name in named(found).items() if name != truth.get(head)}
                wrong |= {head: found[head] for head, role in truth.items() if found[head] != role}
                right = sum(found[head] == role for head, role in truth.items())
                totals["planted roles"] += len(truth)
                totals["planted roles named right"] += right
                totals["random heads"] += len(found) - len(truth)
                totals["random heads named"] += sum(head not in truth for head in wrong)
                print(
                    f"planted {size} seed {seed} {settings}: {right} of {len(truth)} roles, wrong: {wrong}", flush=True
                )
                shutil.rmtree(folder / "runs")
                shutil.rmtree(folder / "planted")
        write_planted(PlantedDesign(size="tiny"), folder / "words")
        for width, scale, seed in product(WIDTHS, WEIGHT_SCALES, range(random_)):
            write_random(folder / "random", folder / "words", seed, width, scale)
            for states in ("mlp", "bos"):
                found = labels(folder / "random", folder / "runs", states)
                wrong = named(found)
                totals["random heads"] += len(found)
                totals["random heads named"] += len(wrong)
                print(f"random {width} wide {scale} seed {seed} {states}: {len(found)} heads, {wrong}", flush=True)
                shutil.rmtree(folder / "runs")
            shutil.rmtree(folder / "random")
    print(dict(totals))


def labels(path: Path, out: Path, states: str = "mlp") -> dict[str, str]:
    """Scan every head of a checkpoint; its labels."""
    job = HeadScanJob(HeadScan(states=states), Model.open("checkpoint", path))
    run = submit(job, out=out, executor=InProcessExecutor(), gpus=0).run
    rows = read_whole(run, "heads").to_pylist()
    return {f"L{row['layer']}H{row['head']}": row["label"] for row in rows}


def named(found: dict[str, str]) -> dict[str, str]:
    """The heads that a label says something of."""
    return {head: name for head, name in found.items() if name not in (NONE, UNRELIABLE)}


def write_random(path: Path, words: Path, seed: int, width: int, scale: float) -> None:
    """Write a GPT-2 of random weights with the tokenizer of another checkpoint."""
    torch.manual_seed(seed)
    config = GPT2Config(
        n_layer=3, n_head=8, n_embd=width, vocab_size=1024, n_positions=512, bos_token_id=1023, eos_token_id=1023
    )
    model = GPT2LMHeadModel(config)
    if scale > 0.02:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(torch.randn_like(parameter) * scale + float("ln_" in name and "weight" in name))
    model.save_pretrained(path)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(words / file, path / file)


if __name__ == "__main__":
    main()
