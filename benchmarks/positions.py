"""How often the classes of `submit positions` are right: planted kernels, random heads, and shuffled positions.

`python -m benchmarks.positions` takes them all apart and prints one line for each checkpoint, then the totals and, for
each condition of a class, the values next to its bound on either side.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter, defaultdict
from itertools import product
from pathlib import Path
from typing import Any

import click

from benchmarks.labels import WIDTHS, write_random
from qkatlas.cluster.in_process import InProcessExecutor
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.resolve import write_checkpoint, write_planted
from qkatlas.jobs.loop.service import submit
from qkatlas.jobs.positions.job import PositionsJob
from qkatlas.jobs.positions.spec import Positions
from qkatlas.outputs.runs.reader import read_whole
from qkatlas.pipeline.planted.checkpoint import PlantedDesign, plant
from qkatlas.pipeline.planted.positions import with_positions, with_shuffled_positions
from qkatlas.pipeline.positions.classes import NONE

EXPECTED = {
    "positional": "positional", "contextual": "contextual", "detokenisation": "detokenisation",
    "previous-token": "previous", "duplicate-token": "duplicate", "BOS sink": "sink",
}  # fmt: skip
"""Roles of planted heads that say where they look, and their classes."""

WEIGHT_SCALES = (0.02, 0.1, 0.2)

COLUMNS = (
    "previous_share", "tv_position", "local_share", "translation_invariance", "equal_share", "width",
    "denominator_cv_between", "tv_fixed", "tv_uniform", "bos_share",
)  # fmt: skip


@click.command()
@click.option("--planted", default=6, show_default=True, help="Seeds of the planted checkpoint.")
@click.option("--random", "random_", default=4, show_default=True, help="Random checkpoints of each width and scale.")
@click.option("--size", default="tiny", show_default=True, help="Size of the planted checkpoints.")
@click.option("--length", default=256, show_default=True, help="Positions of a window.")
def main(planted: int, random_: int, size: str, length: int) -> None:
    """Take planted and random checkpoints apart and compare classes with what is known."""
    totals: Counter[str] = Counter()
    seen: dict[str, list[dict[str, Any]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for seed in range(planted):
            made = with_positions(plant(PlantedDesign(size=size, seed=seed)))
            for name, checkpoint in (("planted", made), ("shuffled", with_shuffled_positions(made, seed))):
                write_checkpoint(checkpoint, folder / "model")
                roles = checkpoint.truth["heads"]
                wrong = {}
                for row in classes(folder / "model", folder / "runs", length):
                    head = f"L{row['layer']}H{row['head']}"
                    role = roles.get(head, "random")
                    expected = EXPECTED.get(role, NONE) if name == "planted" else _without_positions(role)
                    seen[f"{name} {role}"].append(row)
                    totals[f"{name} {role}"] += 1
                    totals[f"{name} {role}: {row['class']}"] += 1
                    if row["class"] != expected:
                        wrong[head] = f"{role} -> {row['class']} ({row['class_margin']:.2f})"
                print(f"{name} {size} seed {seed}: not as expected: {wrong}", flush=True)
                shutil.rmtree(folder / "model")
        write_planted(PlantedDesign(size="tiny"), folder / "words")
        for width, scale, seed in product(WIDTHS, WEIGHT_SCALES, range(random_)):
            write_random(folder / "model", folder / "words", seed, width, scale)
            rows = classes(folder / "model", folder / "runs", length)
            named = {f"L{row['layer']}H{row['head']}": row["class"] for row in rows if row["class"] != NONE}
            totals["random heads"] += len(rows)
            for name in named.values():
                totals[f"random heads: {name}"] += 1
            seen["random"] += rows
            print(f"random {width} wide {scale} seed {seed}: {len(rows)} heads, {named}", flush=True)
            shutil.rmtree(folder / "model")
    for name, count in sorted(totals.items()):
        print(f"{count:5d} {name}")
    for role, rows in seen.items():
        spans = []
        for column in COLUMNS:
            values = [row[column] for row in rows if row[column] is not None]
            if values:
                spans.append(f"{column} {min(values):.3g}..{max(values):.3g}")
        print(f"{role}: {', '.join(spans)}")


def _without_positions(role: str) -> str:
    """The class that a planted head keeps when positions are shuffled: what it has by tokens alone."""
    return EXPECTED[role] if role in ("duplicate-token", "BOS sink") else NONE


def classes(path: Path, out: Path, length: int) -> list[dict[str, Any]]:
    """Take every head of a checkpoint apart; its rows."""
    job = PositionsJob(Positions(windows=8, length=length), Model.open("checkpoint", path))
    run = submit(job, out=out, executor=InProcessExecutor(), gpus=0).run
    rows: list[dict[str, Any]] = read_whole(run, "positions").to_pylist()
    shutil.rmtree(out)
    return rows


if __name__ == "__main__":
    main()
