"""Benchmark of a head scan's layer against its scoring alone, in one run: `python -m benchmarks.scan [--model NAME]`.

What workers compute for a layer (the kin of all tokens, then each head: its tables, statistics and spectrum) is timed
piece by piece in this process, without Ray, and beside it the scores of the same heads alone.
"""

from __future__ import annotations

import json
import time
from typing import Any

import click
import numpy as np

from benchmarks.machine import describe_machine
from qkatlas.cluster.cpus import local_cpus
from qkatlas.cluster.executor import Grant
from qkatlas.jobs.head_scan.shards import head_shards, layer_kin_shards
from qkatlas.jobs.head_scan.work import HeadTask, LayerInputs, find_layer_kin, scan_head
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.resolve import resolve
from qkatlas.jobs.worker.kin import UnitStates
from qkatlas.outputs.runs.reader import list_matrix
from qkatlas.pipeline.circuit.collapse import collapse
from qkatlas.pipeline.circuit.kin import unit_states
from qkatlas.pipeline.circuit.projection import bilinear_factors, head_inputs, head_weights
from qkatlas.pipeline.circuit.spectrum import second_moment
from qkatlas.pipeline.circuit.states import normalise
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.models.rotary import Offsets
from qkatlas.pipeline.scoring.engine import score_rows
from qkatlas.pipeline.scoring.rows import PreparedKeys


class Clock:
    """Seconds of each piece, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Add the time since the last lap to a piece."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


def measure(name: str, layer: int, heads: int, top_k: int, threads: int) -> dict[str, float]:
    """Return seconds of each piece of a layer, and of its heads' scores alone.

    Args:
        name: of the model, as in `submit --model`.
        layer: which.
        heads: how many of its heads.
        top_k: keys kept for each token.
        threads: threads of the one worker.
    """
    model = Model.open(name, resolve(name, lambda text: None))
    shape = model.checkpoint.architecture
    grant = Grant(cpus=threads, gpus=0, workers=1)
    chosen = [Head(layer, index) for index in range(min(heads, shape.n_heads))]
    states_VD = model.token_states("mlp", layer=layer, threads=threads).advance_to(layer)
    offset = Offsets(1, 1) if shape.rotary else None
    weights = [head_weights(model.checkpoint, head) for head in chosen]
    for head_of in weights:  # one short call, so that nothing is compiled while the clock runs
        few = head_inputs(head_of, states_VD[:600], offset=offset, threads=threads)
        score_rows(few.queries_VH, PreparedKeys(few.keys_VH), row_ids_R=np.arange(len(few.keys_VH)), k=2)

    clock = Clock()
    unit = UnitStates(unit_states(states_VD, shape.norm, threads=threads), "benchmark")
    clock.lap("unit states")
    found = [find_layer_kin(grant, shard, unit, None) for shard in layer_kin_shards(layer, shape.vocab_size)]
    clock.lap("kin")
    inputs = LayerInputs(
        states_VD=states_VD,
        kin_ids_VN=np.concatenate([list_matrix(each.tables["kin"], "kin_ids") for each in found]),
        moment_DD=second_moment(normalise(states_VD, shape.norm, threads=threads), threads=threads),
        made_from="benchmark",
        collapse=collapse(states_VD, shape.norm, threads=threads),
    )
    clock.lap("moments and collapse")
    for shard, head, head_of in zip(head_shards(chosen), chosen, weights, strict=True):
        factors = bilinear_factors(model.checkpoint, head, offset=offset)
        task = HeadTask(head=head, weights=head_of, factors=factors, top_k=top_k, seed=0, offset=offset)
        scan_head(grant, shard, inputs, task)
        clock.lap("heads")
    for head_of in weights:
        of = head_inputs(head_of, states_VD, offset=offset, threads=threads)
        keys = PreparedKeys(of.keys_VH)
        ids_V = np.arange(len(of.keys_VH))
        clock.lap("queries, not counted")
        score_rows(of.queries_VH, keys, row_ids_R=ids_V, k=top_k, scale=of.scale, threads=threads)
        clock.lap("scoring alone")
    del clock.seconds["queries, not counted"]
    return clock.seconds


@click.command()
@click.option("--model", "name", default="planted", show_default=True, help="As in submit.")
@click.option("--layer", default=1, show_default=True)
@click.option("--heads", default=12, show_default=True, help="How many of the layer's heads.")
@click.option("--top-k", default=64, show_default=True)
@click.option("--threads", type=int, default=local_cpus, help="Threads of the one worker.")
@click.option("--json", "as_json", is_flag=True, help="End with one JSON object on the last line.")
def main(name: str, layer: int, heads: int, top_k: int, threads: int, as_json: bool) -> None:
    """Time a head scan's layer against its scoring alone."""
    machine = describe_machine(threads)
    print("# " + ", ".join(f"{field} {value}" for field, value in machine.items()), flush=True)
    seconds = measure(name, layer, heads, top_k, threads)
    alone = seconds["scoring alone"]
    whole = sum(seconds.values()) - alone
    for piece, taken in seconds.items():
        print(f"{piece:>22}  {taken:8.2f} s  {taken / alone:6.2f} of the scoring alone")
    print(f"{'layer':>22}  {whole:8.2f} s  {whole / alone:6.2f}")
    if as_json:
        result: dict[str, Any] = {"seconds": seconds, "ratio_to_scoring": whole / alone, "machine": machine}
        print(json.dumps(result))


if __name__ == "__main__":
    main()
