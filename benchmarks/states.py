"""How near token states come to a learned model's own attention: real scores of texts against those of tokens alone.

`python -m benchmarks.states` takes SmolLM2-135M and ten texts that no window of the states `context` is from. In each
the real pre-softmax scores come from transformers' eager attention; a token-only score is that of the two tokens'
states at the offset at which they stand. The measure is Pearson's correlation over all pairs of a query and an earlier
key or itself, the first position left out, after each query's mean over its keys is taken from both. It prints the
median head of each band of layers, and as `offset only` that of one state for all tokens, the mean of
theirs in context: what position alone tells.

Shapes: N heads of a layer, T positions, U different tokens of the texts, D model, H head dimension, L layers.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import click
import numpy as np
import torch
from transformers import AutoModelForCausalLM

from qkatlas.jobs.inputs.chosen_states import ChosenStates, prefix_tokens
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.resolve import resolve
from qkatlas.pipeline.circuit.kinds import CONTEXT, DRAWS, PREFIX, WINDOWS
from qkatlas.pipeline.models.checkpoint import Checkpoint
from qkatlas.pipeline.passes.fidelity import LayerProjection, row_figures, row_sums
from qkatlas.pipeline.text.calibration import calibration_windows
from qkatlas.pipeline.text.tokenizer import encode_each

TEXTS = (
    "The lighthouse keeper wrote down the wind, the tide and the name of every ship that passed, and at the end of the "
    "year he sent his notebook to an office in the capital, where nobody ever opened it.",
    "A recent survey of 2,300 households found that the average family throws away about a fifth of the food it buys, "
    "most of it bread, fruit and vegetables that were never touched.",
    "If you divide both sides of the equation by x, you lose the solution x = 0, so first check whether zero satisfies "
    "it; only then cancel the common factor and solve what is left.",
    '"You said you would be here at six," Maria told him. "It is nearly eight, the soup is cold, and the children '
    'have gone to bed without seeing their father."',
    "The company announced on Tuesday that it will close its oldest factory in Ohio by the end of March, with the loss "
    "of 850 jobs, and move the production of engines to Mexico.",
    "def count_words(path):\n    counts = {}\n    with open(path) as file:\n        for line in file:\n            for "
    "word in line.lower().split():\n                counts[word] = counts.get(word, 0) + 1\n    return counts",
    "Penguins cannot fly, but under water their wings work like flippers: an emperor penguin dives deeper than 500 "
    "metres and can hold its breath for more than twenty minutes while it hunts for fish.",
    "After the war the two brothers never spoke again. One kept the farm, the other went to sea, and when their mother "
    "died in the winter of 1953 only her neighbours stood at the grave.",
    "Before you paint a wall, fill the holes, sand it until it is smooth, wipe off the dust with a damp cloth and let "
    "it dry; two thin coats of paint look better than a thick one.",
    "The old theatre on Broad Street, which had been a cinema, a bingo hall and a furniture store, opened again last "
    "night with a comedy by Shakespeare, and the audience stood up and cheered.",
)
"""None of it is in the calibration text."""

BANDS = ((0, 0), (1, 2), (3, 8), (9, 11), (12, 29))


def real_scores(path: str, file: str, tokens: list[list[int]]) -> list[list[np.ndarray]]:
    """Pre-softmax scores [N, T, T] of every text and layer: what reaches the softmax of transformers' attention."""
    model = AutoModelForCausalLM.from_pretrained(
        path, gguf_file=file, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    softmax = torch.nn.functional.softmax
    found: list[list[np.ndarray]] = []

    def listen(scores: torch.Tensor, *arguments: object, **named: object) -> torch.Tensor:
        found[-1].append(scores[0].detach().numpy().copy())
        return softmax(scores, *arguments, **named)

    torch.nn.functional.softmax = listen
    try:
        for ids in tokens:
            found.append([])
            with torch.no_grad():
                model(torch.tensor([ids]))
    finally:
        torch.nn.functional.softmax = softmax
    return found


@click.command()
@click.option("--layers", default="", help="Layers to look at, such as 1,3,12.  [default: all]")
@click.option("--threads", default=2, show_default=True)
@click.option("--prefix", "texts", multiple=True, default=("<|endoftext|>",), show_default=True)
@click.option("--draws", default=DRAWS, show_default=True)
def main(layers: str, threads: int, texts: tuple[str, ...], draws: int) -> None:
    """Compare all kinds of states with real scores."""
    model = Model.open("smollm2", resolve("smollm2", print))
    checkpoint = model.checkpoint
    a, path = checkpoint.architecture, checkpoint.path
    wanted = [int(layer) for layer in layers.split(",")] if layers else list(range(a.n_layers))
    encoded = encode_each(path, TEXTS, option="the texts", remedy="install the model")
    # In front stands <|endoftext|>, as when the model was trained; its position is left out.
    tokens = [[0, *ids] for ids in encoded]
    real = real_scores(str(path.parent), path.name, tokens)
    known = sorted({token for ids in tokens for token in ids})
    place = {token: number for number, token in enumerate(known)}
    windows_WT = calibration_windows(path, a.vocab_size, WINDOWS)

    def context(prefix: tuple[int, ...]) -> ChosenStates:
        return ChosenStates(kind=CONTEXT, prefix=prefix, windows_WT=windows_WT, draws=draws)

    kinds = {kind: ChosenStates(kind=kind) for kind in ("mlp", "bos")}
    kinds["context behind BOS"] = context((a.require_bos(),))
    for text in texts:
        ids = prefix_tokens(text, model)
        kinds[f"prefix {text!r}"] = ChosenStates(kind=PREFIX, prefix=ids)
        kinds[f"context behind {text!r}"] = context(ids)
    found: dict[str, dict[int, np.ndarray]] = {"offset only": {}}
    for name, chosen in kinds.items():
        started = time.perf_counter()
        states = chosen.begin(model, layer=wanted[-1], token_ids=known, threads=threads)
        found[name] = {}
        for layer in wanted:
            states_UD = states.advance_to(layer)
            found[name][layer] = fidelity(checkpoint, layer, states_UD, place, tokens, real)
            if name == "context behind BOS":
                one_UD = np.broadcast_to(states_UD.mean(axis=0), states_UD.shape)
                found["offset only"][layer] = fidelity(checkpoint, layer, one_UD, place, tokens, real)
        click.echo(f"{name}: {len(known)} tokens in {time.perf_counter() - started:.0f} s")
    show(found, wanted)


def fidelity(
    checkpoint: Checkpoint, layer: int, states_UD: np.ndarray, place: Mapping[int, int], tokens: list[list[int]],
    real: list[list[np.ndarray]],
) -> np.ndarray:  # fmt: skip
    """Correlation of each head's row-centred scores over all texts, [N]."""
    projection = LayerProjection.of(checkpoint, layer, np.ascontiguousarray(states_UD), threads=2)
    sums = [
        row_sums(projection.scores(torch.tensor([[place[token] for token in ids]])), torch.from_numpy(of[layer][None]))
        for ids, of in zip(tokens, real, strict=True)
    ]
    return row_figures(np.sum(sums, axis=0))["correlation"]


def show(found: Mapping[str, Mapping[int, np.ndarray]], wanted: list[int]) -> None:
    """Print the median head of each band and of each layer."""
    bands = [band for band in BANDS if any(band[0] <= layer <= band[1] for layer in wanted)]
    click.echo("| states | " + " | ".join(f"{a}-{b}" if a < b else f"{a}" for a, b in bands) + " |")
    click.echo("|---" * (len(bands) + 1) + "|")
    for name, by_layer in found.items():
        medians = [
            np.median(np.concatenate([by_layer[layer] for layer in wanted if a <= layer <= b])) for a, b in bands
        ]
        click.echo(f"| {name} | " + " | ".join(f"{median:.2f}" for median in medians) + " |")


if __name__ == "__main__":
    main()
