"""What `submit features` takes, on dictionaries that are written by hand: random decoders whose owners are planted.

`python -m benchmarks.features --model smollm2` writes one for every layer's z and describes all heads;
`--model planted --layers 1 --features 24576` takes one large dictionary. Each prints whether every owner is found, by
which convention, the seconds, and the process's peak memory.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from safetensors.numpy import save_file

from benchmarks.machine import describe_machine
from qkatlas.cluster.in_process import InProcessExecutor
from qkatlas.cluster.memory import peak_memory
from qkatlas.jobs.features.job import FeaturesJob
from qkatlas.jobs.features.spec import Features
from qkatlas.jobs.inputs.heads import heads_within
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.resolve import resolve
from qkatlas.jobs.loop.service import submit
from qkatlas.outputs.runs.reader import open_table, read_whole
from qkatlas.pipeline.features.dictionary import open_dictionaries


@click.command()
@click.option("--model", "name", default="smollm2", show_default=True, help="As --model of submit.")
@click.option("--layers", default=None, help="Layers, such as 0-3.  [default: all]")
@click.option("--features", "count", default=2304, show_default=True, help="Features of each dictionary.")
@click.option("--windows", default=None, type=int, help="Windows of text.  [default: as many as there are, 64 at most]")
@click.option("--length", default=128, show_default=True, help="Positions of a window.")
@click.option("--text", default=None, type=click.Path(path_type=Path), help="Text.  [default: the calibration text]")
def main(name: str, layers: str | None, count: int, windows: int | None, length: int, text: Path | None) -> None:
    """Write dictionaries, describe them, and compare owners."""
    for key, value in describe_machine(threads=2).items():
        print(f"{key}: {value}")
    model = Model.open(name, resolve(name, print))
    a = model.checkpoint.architecture
    chosen = [head.layer for head in heads_within(layers, None, n_layers=a.n_layers, n_heads=1)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        owners = {
            layer: write_owned(folder / "sae" / f"L{layer}", layer, a.n_heads, a.d_head, count) for layer in chosen
        }
        content = None if text is None else text.read_text(encoding="utf-8")
        spec = Features(directory=str(folder / "sae"), windows=windows, length=length, text=content)
        started = time.perf_counter()
        job = FeaturesJob(spec, model, open_dictionaries(folder / "sae"))
        opened = time.perf_counter()
        run = submit(job, out=folder / "runs", executor=InProcessExecutor(), gpus=0).run
        ended = time.perf_counter()
        rows = open_table(run, "features").to_table(columns=["layer", "feature", "head_top", "head_share_top"])
        found = {(row["layer"], row["feature"]): row for row in rows.to_pylist()}
        right = sum(
            found[layer, feature]["head_top"] == owner and found[layer, feature]["head_share_top"] > 1 - 1e-6
            for layer, of_layer in owners.items() for feature, owner in enumerate(of_layer)
        )  # fmt: skip
        dictionaries = read_whole(run, "dictionaries").to_pylist()
        differ = [row for row in dictionaries if row["conventions_differ"]]
        candidates = sum(read_whole(run, "heads")["monosemantic_candidate"].to_pylist())
        written = sum(file.stat().st_size for file in Path(run.folder.path).rglob("*.parquet"))
        folded = sum(row["convention"] == "folded" for row in differ)
        heads = len(owners) * a.n_heads
        print(f"{len(owners)} dictionaries of {count} features, {dictionaries[0]['positions']} positions")
        print(f"owners found: {right} of {len(owners) * count}; candidates: {candidates} of {heads} heads")
        print(f"conventions differ in {len(differ)} layers, folded is taken in {folded}")
        print(f"opening {opened - started:.1f} s, the run {ended - opened:.1f} s, {written / 1e6:.0f} MB of tables")
        print(f"peak memory {peak_memory() / 1e9:.2f} GB")


def write_owned(folder: Path, layer: int, n_heads: int, d_head: int, count: int) -> list[int]:
    """Write a dictionary of z whose features belong to one head each; their owners, by feature."""
    rng = np.random.default_rng(layer)
    owners = rng.integers(n_heads, size=count)
    rows = np.zeros((count, n_heads, d_head), np.float32)
    directions = rng.standard_normal((count, d_head))
    rows[np.arange(count), owners] = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    w_dec = rows.reshape(count, -1)
    tensors = {
        "W_enc": np.ascontiguousarray(w_dec.T), "W_dec": w_dec, "b_enc": np.zeros(count, np.float32),
        "b_dec": np.zeros(n_heads * d_head, np.float32),
    }  # fmt: skip
    config = {
        "architecture": "topk", "d_in": n_heads * d_head, "d_sae": count, "k": 32, "apply_b_dec_to_input": True,
        "normalize_activations": "none", "metadata": {"hook_name": f"blocks.{layer}.attn.hook_z"},
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "cfg.json").write_text(json.dumps(config))
    save_file(tensors, folder / "sae_weights.safetensors")
    return [int(owner) for owner in owners]


if __name__ == "__main__":
    main()
