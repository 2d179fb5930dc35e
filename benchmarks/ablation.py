"""Benchmark of the ablation sweep against the naive one: `python -m benchmarks.ablation [--model DIR] [--json]`.

Naive: one whole pass from the tokens for every component, by TransformerBridge's `run_with_hooks` with the output
replaced in a hook, the scores of all heads above read in others, and the loss from the logits. Ours: the same
components by `qkatlas.pipeline.passes.ablation`. Both run the same batch of prompts on one thread with the same bridge,
layer by layer in turn, so that a busy machine slows both alike; their scores are compared. Some layers are measured
(`--layers`), and some of their heads stand for all; the seconds of the whole sweep are the sums over all layers,
taken linearly between the measured ones. The exact ratio of multiplications is printed beside that of the seconds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from qkatlas.cluster.memory import peak_memory
from qkatlas.jobs.inputs.resolve import resolve
from qkatlas.pipeline.models.architecture import Architecture
from qkatlas.pipeline.models.checkpoint import Checkpoint
from qkatlas.pipeline.models.forward import PROMPTS_PER_BATCH, Forward, Hook, scores_hook
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.models.weights import ModelWeights
from qkatlas.pipeline.passes.ablation import Measurement, measure_ablated, measure_clean
from qkatlas.pipeline.passes.components import HEAD, MLP_RESIDUAL, Component, embeddings, of_layer, reached
from qkatlas.pipeline.passes.replacing import heads_of
from qkatlas.pipeline.passes.semantic import semantic_category_scores
from qkatlas.pipeline.text.categories import Categories, read_categories
from qkatlas.pipeline.text.passages import Passages
from qkatlas.pipeline.text.prompts import CategoryPrompts
from qkatlas.pipeline.text.vocabulary import Vocabulary

Means = dict[Component, np.ndarray]


def naive(
    model: Forward, passages: Passages, measurement: Measurement, component: Component, means: Means
) -> tuple[np.ndarray, np.ndarray]:
    """Scores [P, Z] and, if asked for, summed losses [P] of one mean-ablated component by one whole pass."""
    scores: dict[int, torch.Tensor] = {}

    def read(layer: int) -> Hook:
        heads = [head.index for head in measurement.heads if head.layer == layer]

        def act(scores_PNTT: torch.Tensor) -> None:
            scores[layer] = semantic_category_scores(scores_PNTT[:, heads], passages.prompts)

        return act

    layers = measurement.layers(component.first_layer_after)
    hooks = {scores_hook(layer): read(layer) for layer in layers} | _replacing(component, means)
    count = len(passages.tokens_PT)
    if not measurement.loss:
        inside = {name: hook for name, hook in hooks.items() if name.startswith("blocks.")}
        outside = {name: hook for name, hook in hooks.items() if name not in inside}
        model.go_on(model.run(passages.tokens_PT, outside, stop_at_layer=0), 0, inside)
        return torch.cat([scores[layer] for layer in layers], 1).numpy(), np.zeros(count)
    logits_PTV = model.run(passages.tokens_PT, hooks)
    scores_PZ = torch.cat([scores[layer] for layer in layers], 1).numpy() if layers else np.empty((count, 0))
    next_PT = torch.from_numpy(passages.tokens_PT)[:, 1:]
    losses_PT = functional.cross_entropy(logits_PTV[:, :-1].transpose(1, 2), next_PT, reduction="none")
    return scores_PZ, losses_PT.double().sum(1).numpy()


def _replacing(component: Component, means: Means) -> dict[str, Hook]:
    layer = component.layer
    if layer is None:
        mean_D = torch.from_numpy(means[component])
        return {f"hook_{component.kind}": lambda output: mean_D.expand_as(output)}
    if component.kind == HEAD:
        mean_NH = torch.from_numpy(means[heads_of(layer)])

        def replace(z_PTNH: torch.Tensor) -> torch.Tensor:
            z_PTNH = z_PTNH.clone()
            z_PTNH[:, :, component.head] = mean_NH.reshape(z_PTNH.shape[2:])[component.head]
            return z_PTNH

        return {f"blocks.{layer}.attn.hook_z": replace}
    if component.kind == MLP_RESIDUAL:
        kept: dict[str, torch.Tensor] = {}
        return {
            f"blocks.{layer}.hook_mlp_out": lambda output: kept.update(mlp=output),
            f"blocks.{layer}.hook_resid_post": lambda output: kept["mlp"],
        }
    mean_D = torch.from_numpy(means[component])
    return {f"blocks.{layer}.hook_{component.kind}_out": lambda output: mean_D.expand_as(output)}


def products(shape: Architecture, first: int, components: int, *, loss: bool) -> tuple[int, int]:
    """Multiplications by weights for one token, ours and naive, of some ablations that begin in front of a layer."""
    a_layer = (4 * shape.d_model + 2 * shape.d_mlp) * shape.d_model
    an_mlp = 2 * shape.d_mlp * shape.d_model
    unembedding = shape.vocab_size * shape.d_model if loss else 0
    above = (shape.n_layers - first) * a_layer + unembedding
    if not loss:
        above -= a_layer - 3 * shape.d_model**2  # of the last layer only queries, keys and values
    mlps = (components - 2) * an_mlp if first else 0
    return first * a_layer + components * above + mlps, components * (shape.n_layers * a_layer + unembedding)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="planted")
    parser.add_argument("--length", type=int, default=64, help="words in a prompt")
    parser.add_argument("--layers", help="layers to measure; default: the first, the middle and the last that matters")
    parser.add_argument("--heads", type=int, default=3, help="heads of each layer to measure, for all of them")
    parser.add_argument("--no-loss", action="store_true", help="scores only")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)

    torch.set_num_threads(1)
    path = resolve(given.model, print) if not Path(given.model).is_dir() else Path(given.model)
    checkpoint = Checkpoint.open(path)
    shape = checkpoint.architecture
    model = Forward(ModelWeights.read(checkpoint, str(path)))
    words = [words for _, words in read_categories()]
    categories = Categories.fit(words, Vocabulary.open(path, shape.vocab_size))
    prompts = CategoryPrompts.draw(
        categories, bos=shape.require_bos(), count=PROMPTS_PER_BATCH, length=given.length, seed=0
    )
    passages = Passages.of_prompts(prompts)
    heads = tuple(Head(layer, head) for layer in range(shape.n_layers) for head in range(shape.n_heads))
    measurement = Measurement(heads, not given.no_loss)
    _, sums = measure_clean(model, passages, measurement, range(shape.n_layers))
    means = {component: (total / passages.tokens_PT.size).astype(np.float32) for component, total in sums.items()}

    last = shape.n_layers - 1 if measurement.loss else shape.n_layers - 2
    layers = list(map(int, given.layers.split(","))) if given.layers else sorted({0, last // 2, last})
    rows: list[dict[str, Any]] = []
    groups = [embeddings(shape), *(of_layer(shape, layer) for layer in layers)]
    measure_ablated(model, passages, measurement, groups[0][:1], kind="zero", means={})  # warm
    for group in groups:
        measured = [component for component in group if component.head is None or component.head < given.heads]
        if not measurement.loss and not reached(measured[0], heads):
            continue
        started = time.perf_counter()
        ours = measure_ablated(model, passages, measurement, measured, kind="mean", means=means)
        between = time.perf_counter()
        each = [naive(model, passages, measurement, component, means) for component in measured]
        ended = time.perf_counter()
        worst = max(float(np.abs(a - b).max(initial=0)) for a, (b, _) in zip(ours.scores_MPZ, each, strict=True))
        rows.append({
            "components": ", ".join(component.name for component in measured),
            "layer": group[0].layer,
            "ours_s": round((between - started) / len(measured), 4),
            "naive_s": round((ended - between) / len(measured), 4),
            "worst_score_difference": worst,
        })  # fmt: skip

    result = {"model": given.model, "tokens": passages.tokens_PT.size, "loss": measurement.loss, "rows": rows}
    result |= _whole(shape, rows, loss=measurement.loss)
    result["peak_memory_mb"] = peak_memory() >> 20
    if given.json:
        print(json.dumps(result, indent=1))
        return
    for row in rows:
        ratio = row["naive_s"] / row["ours_s"]
        print(f"{row['components']:60} ours {row['ours_s']:.3f} s, naive {row['naive_s']:.3f} s: {ratio:.2f} x")
    print(
        f"whole sweep of {result['components']} components, a batch of {passages.tokens_PT.size} tokens on one thread: "
        f"ours {result['ours_s']:.0f} s, naive {result['naive_s']:.0f} s: {result['ratio']:.2f} x "
        f"(by multiplications {result['ratio_by_products']:.2f} x); scores differ by at most "
        f"{max(row['worst_score_difference'] for row in rows):.1e}"
    )


def _whole(shape: Architecture, rows: Sequence[dict[str, Any]], *, loss: bool) -> dict[str, Any]:
    """Seconds of the sweep over all components, from those of the measured layers."""
    layers = [row for row in rows if row["layer"] is not None]
    swept = range(shape.n_layers) if loss else range(shape.n_layers - 1)
    a_layer = len(of_layer(shape, 0))
    seconds = {
        name: 2 * rows[0][name]
        + a_layer * float(np.interp(swept, [row["layer"] for row in layers], [row[name] for row in layers]).sum())
        for name in ("ours_s", "naive_s")
    }
    counts = [products(shape, 0, 2, loss=loss), *(products(shape, layer + 1, a_layer, loss=loss) for layer in swept)]
    ours, naively = np.sum(counts, axis=0)
    return {
        "components": 2 + a_layer * len(swept),
        **seconds,
        "ratio": seconds["naive_s"] / seconds["ours_s"],
        "ratio_by_products": float(naively / ours),
    }


if __name__ == "__main__":
    main()
