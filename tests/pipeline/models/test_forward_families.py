"""The forward pass of every family against transformers in float64, and gone on with from any layer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.checkpoints import reference
from support.families import EVERY, make, raw_scores

from qkatlas.pipeline.circuit.states import TokenStates, attention_means
from qkatlas.pipeline.models.checkpoint import Checkpoint
from qkatlas.pipeline.models.forward import Forward
from qkatlas.pipeline.models.weights import ModelWeights
from qkatlas.pipeline.text import streams
from qkatlas.pipeline.text.prompts import random_tokens

pytestmark = pytest.mark.slow

RANDOM = np.stack([np.random.default_rng(seed).permutation(80)[:28] for seed in range(3)])


def model_of(folder: Path) -> Forward:
    return Forward(ModelWeights.read(Checkpoint.open(folder), str(folder)))


@pytest.mark.parametrize("variant", EVERY)
def test_every_family_runs_as_transformers_runs_it(tmp_path: Path, variant: str) -> None:
    theirs, model = reference(make(variant, tmp_path)), model_of(tmp_path)
    tokens_PT = torch.from_numpy(RANDOM)
    heard, hidden = raw_scores(theirs, tokens_PT)
    with torch.no_grad():
        logits_PTV = theirs(tokens_PT).logits
    found: dict[int, torch.Tensor] = {}
    model.attention_scores(RANDOM, range(len(heard)), lambda layer, scores: found.update({layer: scores.double()}))
    for layer, expected in enumerate(heard):
        read = expected > torch.finfo(torch.float32).min  # what a window leaves out has no score
        largest = expected[read].abs().max()
        assert (found[layer] - expected)[read].abs().max() < 1e-5 * largest, layer
        # Where nothing is read, nothing may get attention.
        assert (found[layer][~read] < -1e30).all()
    np.testing.assert_allclose(model.run(RANDOM, {}).numpy(), logits_PTV.numpy(), atol=3e-5)
    for layer in range(1, len(heard)):
        stream_PTD = model.run(RANDOM, {}, stop_at_layer=layer)
        np.testing.assert_allclose(stream_PTD.numpy(), hidden[layer].numpy(), atol=3e-5)
        end_PTD = model.go_on(stream_PTD, layer, {})
        logits_RV = model.logits(end_PTD.flatten(0, 1))
        assert torch.equal(logits_RV.reshape(logits_PTV.shape), model.run(RANDOM, {}))


@pytest.mark.parametrize("variant", ["llama-groups-of-3", "gemma-2-no-cap", "neox", "neox-sequential"])
def test_mean_states_have_the_mean_of_what_attention_adds(tmp_path: Path, variant: str) -> None:
    """Against transformers with each layer's addition replaced by its mean over the reference prompts."""
    theirs, checkpoint = reference(make(variant, tmp_path)), Checkpoint.open(tmp_path)
    a, ordinary = checkpoint.architecture, list(range(3, 90))
    weights = ModelWeights.read(checkpoint, variant)
    means_LD = attention_means(weights, ordinary, a.n_layers, threads=2)
    seed = streams.REFERENCE_PROMPTS.sequence(0)
    prompts_PT = random_tokens(np.asarray(ordinary), bos=1, count=32, length=63, seed=seed)
    adding = [
        getattr(block, "post_attention_layernorm" if a.after_norms else "self_attn", None)
        or getattr(block, "attention", None)
        for block in (theirs.gpt_neox if a.family == "neox" else theirs.model).layers
    ]

    def of(output: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
        return output[0] if isinstance(output, tuple) else output

    heard: list[torch.Tensor] = []
    handles = [part.register_forward_hook(lambda _m, _i, out: heard.append(of(out))) for part in adding]
    with torch.no_grad():
        theirs(torch.from_numpy(prompts_PT))
    for handle in handles:
        handle.remove()
    expected_LD = torch.stack([added[:, 1:].mean(dim=(0, 1)) for added in heard])
    np.testing.assert_allclose(means_LD, expected_LD.numpy(), atol=1e-5)

    for part, mean_D in zip(adding, expected_LD, strict=True):

        def put(_m: object, _i: object, out: torch.Tensor | tuple[torch.Tensor, ...], mean_D=mean_D) -> object:
            replaced = mean_D.expand_as(of(out))
            return (replaced, *out[1:]) if isinstance(out, tuple) else replaced

        part.register_forward_hook(put)
    with torch.no_grad():
        hidden = theirs(torch.arange(a.vocab_size)[:, None], output_hidden_states=True).hidden_states
    states = TokenStates(checkpoint, "mean", attention_means_LD=means_LD, threads=1)
    for layer in range(a.n_layers):
        np.testing.assert_allclose(states.advance_to(layer), hidden[layer][:, 0].numpy(), atol=1e-4)


def test_a_model_that_transformers_has_not_is_refused_by_what_it_is(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(make("llama-biases", tmp_path))
    weights = ModelWeights.read(checkpoint, "mixed")
    mixed = replace(weights, architecture=replace(checkpoint.architecture, window=5, windowed=(0, 2)))
    with pytest.raises(ValueError, match="windows on 2 of 3 layers and biases queries, keys, values, output, mlp"):
        Forward(mixed)
