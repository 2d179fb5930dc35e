"""Benchmark of `submit tasks`: `python -m benchmarks.tasks`.

Three things, each by itself: `--planted N` seeds of the planted model with heads that solve tasks, whose labels are
compared with its truth; `--random N` models with shuffled weights, whose labels are all false; and `--model NAME`, the
cost of all heads on one task against naive passes: from the tokens on through the whole model, with the head's output
replaced in a hook and logits of all positions. Naive passes run some heads (`--heads`), on the same prompts and one
thread, in turn with ours; losses are compared.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from qkatlas.cluster.in_process import InProcessExecutor
from qkatlas.cluster.memory import peak_memory
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.resolve import resolve, write_checkpoint
from qkatlas.jobs.loop.service import submit
from qkatlas.jobs.tasks.corpus import Corpus
from qkatlas.jobs.tasks.job import TasksJob
from qkatlas.jobs.tasks.spec import Tasks
from qkatlas.outputs.runs.reader import read_whole
from qkatlas.pipeline.models.forward import PROMPTS_PER_BATCH, Forward
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.passes.attribution import measure_answers
from qkatlas.pipeline.passes.questions import Questions, measure_without
from qkatlas.pipeline.passes.readout import Readout
from qkatlas.pipeline.planted.checkpoint import PlantedDesign, plant
from qkatlas.pipeline.planted.tasks import with_tasks


@click.command()
@click.option("--planted", default=8, show_default=True, help="Seeds of the planted checkpoint.")
@click.option("--random", "random_", default=8, show_default=True, help="Models with shuffled weights.")
@click.option("--size", default="tiny", show_default=True, help="Size of the planted checkpoints.")
@click.option("--prompts", default=64, show_default=True, help="Prompts of a task.")
@click.option("--model", default=None, help="Model whose cost is measured.")
@click.option("--task", default="induction", show_default=True, help="Task that it is measured on.")
@click.option("--heads", default=6, show_default=True, help="Heads that naive passes run, evenly over the layers.")
def main(planted: int, random_: int, size: str, prompts: int, model: str | None, task: str, heads: int) -> None:
    """Compare labels with what is known, and the cost with naive passes."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        right = sum(known(folder, size, seed, prompts) for seed in range(planted))
        if planted:
            print(f"planted {size}: exactly the planted heads at {right} of {planted} seeds")
        found = [nothing(folder, size, seed, prompts) for seed in range(random_)]
        if random_:
            pairs, false = (sum(column) for column in zip(*found, strict=True))
            print(f"shuffled weights: {false} labels among {pairs} pairs, {1000 * false / pairs:.2f} in 1000")
    if model is not None:
        cost(model, task, prompts, heads)


def served(path: Path, out: Path, **asked: Any) -> tuple[dict[str, set[str]], int]:
    """Heads that serve each task of a run, and the number of measured pairs."""
    job = TasksJob(Tasks(prefixes=False, exact=0, **asked), Model.open("checkpoint", path))
    rows = read_whole(submit(job, out=out, executor=InProcessExecutor(), gpus=0).run, "task_heads").to_pylist()
    shutil.rmtree(out)
    found: dict[str, set[str]] = {row["task"]: set() for row in rows}
    for row in rows:
        if row["serves"]:
            found[row["task"]].add(str(Head(row["layer"], row["head"])))
    return found, len(rows)


def known(folder: Path, size: str, seed: int, prompts: int) -> bool:
    """Whether exactly the planted heads serve the planted tasks of one seed."""
    made = with_tasks(plant(PlantedDesign(size=size, seed=seed)))
    write_checkpoint(made, folder / "model")
    found, _ = served(folder / "model", folder / "runs", prompts=prompts)
    shutil.rmtree(folder / "model")
    truth = {task: set(of_task) for task, of_task in made.truth["tasks"].items()}
    wrong = {task: sorted(of_task ^ truth.get(task, set())) for task, of_task in found.items()}
    wrong = {task: of_task for task, of_task in wrong.items() if of_task}
    print(f"planted {size} seed {seed}: {len(found)} tasks, not as planted: {wrong}", flush=True)
    return not wrong


def nothing(folder: Path, size: str, seed: int, prompts: int) -> tuple[int, int]:
    """Pairs, and those that are labelled, of one model with shuffled weights."""
    write_checkpoint(with_tasks(plant(PlantedDesign(size=size, seed=seed))), folder / "model")
    found, pairs = served(folder / "model", folder / "runs", prompts=prompts, seed=seed, random_weights=True)
    shutil.rmtree(folder / "model")
    false = {task: sorted(of_task) for task, of_task in found.items() if of_task}
    print(f"shuffled weights seed {seed}: {pairs} pairs, labelled {false}", flush=True)
    return pairs, sum(map(len, found.values()))


def cost(name: str, task: str, prompts: int, heads: int) -> None:
    """Print what all heads take on one task, ours and naive, and how far their losses differ."""
    torch.set_num_threads(1)
    model = Model.open(name, resolve(name, print))
    a = model.checkpoint.architecture
    (drawn,) = Corpus.draw(Tasks(tasks=task, prompts=prompts), model).tasks
    weights = model.weights()
    forward, readout = Forward(weights), Readout.of(weights)
    batch = Questions.of(drawn, None, slice(0, PROMPTS_PER_BATCH))
    started = time.perf_counter()
    answers = measure_answers(forward, batch, readout, drawn.source)
    clean_s = time.perf_counter() - started
    means = {
        layer: (sums / answers.count).reshape(-1).astype(np.float32) for layer, sums in enumerate(answers.sums_LNH)
    }
    every = [Head(layer, head) for layer in range(a.n_layers) for head in range(a.n_heads)]
    started = time.perf_counter()
    losses = measure_without(forward, batch, every, answers.losses_PW, kind="mean", means=means)
    ours_s = time.perf_counter() - started
    chosen = [every[number * (len(every) - 1) // max(1, heads - 1)] for number in range(heads)]
    naive_s, furthest = 0.0, 0.0
    for head in chosen:
        started = time.perf_counter()
        by_hook = naive(forward, batch, head, means[head.layer], a.n_heads)
        naive_s += (time.perf_counter() - started) / len(chosen)
        furthest = max(furthest, float(np.abs(by_hook - losses[every.index(head)]).max()))
    batches = -(-prompts // PROMPTS_PER_BATCH)
    ours, plain = batches * (clean_s + ours_s), batches * naive_s * len(every)
    print(
        f"{name}, {task}, {prompts} prompts and as many controls, all {len(every)} heads, one thread, from "
        f"{PROMPTS_PER_BATCH} prompts: ours {ours:.0f} s (as it is {batches * clean_s:.0f} s), naive {plain:.0f} s, "
        f"ratio {plain / ours:.2f}; losses differ by {furthest:.1e}; peak {peak_memory() / 2**30:.2f} GiB"
    )


def naive(model: Forward, questions: Questions, head: Head, mean: np.ndarray, n_heads: int) -> np.ndarray:
    """Losses [P, W] with one head replaced, by one whole pass with the logits of all positions."""

    def replace(mixed: torch.Tensor) -> torch.Tensor:
        by_head = mixed.reshape(*mixed.shape[:2], n_heads, -1).clone()
        by_head[:, :, head.index] = torch.from_numpy(mean).reshape(n_heads, -1)[head.index]
        return by_head.reshape(mixed.shape)

    logits = model.run(questions.tokens_PT, {f"blocks.{head.layer}.attn.hook_z": replace})
    row = torch.arange(len(logits))[:, None]
    logp = logits[row, torch.from_numpy(questions.places_PA)].log_softmax(dim=-1)
    found: np.ndarray = -logp.gather(2, torch.from_numpy(questions.answers_PAW)).mean(dim=1).double().numpy()
    return found


if __name__ == "__main__":
    main()
