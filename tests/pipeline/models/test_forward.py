"""The forward pass by TransformerBridge against Hugging Face's, and on any number of threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from qkatlas.pipeline.models.checkpoint import Checkpoint
from qkatlas.pipeline.models.forward import Forward, for_batches
from qkatlas.pipeline.models.weights import ModelWeights
from qkatlas.pipeline.passes.behaviour import causal_pattern


@pytest.mark.parametrize(
    "variant",
    [
        {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True},
        {"activation_function": "relu", "n_inner": 96},
        {"activation_function": "gelu"},
    ],
)
def test_scores_give_hugging_faces_patterns_in_every_variant(
    make_random_model: Callable[..., Path], variant: dict[str, Any]
) -> None:
    folder = make_random_model(6, **variant)
    tokens_PT = np.random.default_rng(0).integers(0, 211, (3, 20))
    hf = GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        expected = hf(torch.from_numpy(tokens_PT), output_attentions=True).attentions
    found: dict[int, torch.Tensor] = {}
    model = Forward(ModelWeights.read(Checkpoint.open(folder), "variant"))
    model.attention_scores(tokens_PT, [0, 1, 2], lambda layer, scores: found.update({layer: causal_pattern(scores)}))
    for layer in range(3):
        np.testing.assert_allclose(found[layer].numpy(), expected[layer].numpy(), atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_logits_equal_hugging_faces_with_an_unembedding_of_its_own_or_not(
    make_random_model: Callable[..., Path], tied: bool
) -> None:
    folder = make_random_model(7, tie_word_embeddings=tied)
    tokens_PT = np.random.default_rng(0).integers(0, 211, (2, 12))
    hf = GPT2LMHeadModel.from_pretrained(folder).eval()
    assert torch.equal(hf.lm_head.weight, hf.transformer.wte.weight) == tied
    with torch.no_grad():
        expected = hf(torch.from_numpy(tokens_PT)).logits.numpy()
    model = Forward(ModelWeights.read(Checkpoint.open(folder), "logits"))
    np.testing.assert_allclose(model.run(tokens_PT, {}).numpy(), expected, atol=1e-4)


def test_models_of_the_same_weights_and_another_configuration_are_kept_apart(random_model: Path) -> None:
    plain = ModelWeights.read(Checkpoint.open(random_model), "same")
    other = ModelWeights("same", replace(plain.architecture, scale_by_layer=True), plain.tensors)
    tokens_PT = np.arange(20).reshape(1, 20)

    def residual(weights: ModelWeights) -> np.ndarray:
        (found,) = for_batches(weights, [tokens_PT], lambda model, tokens: model.run(tokens, {}).numpy(), threads=1)
        return found

    first = residual(plain)
    assert not np.allclose(residual(other), first)
    assert np.array_equal(residual(plain), first)


def test_batches_give_the_same_bits_on_any_number_of_threads(random_model: Path) -> None:
    weights = ModelWeights.read(Checkpoint.open(random_model), "threads")
    batches = list(np.random.default_rng(1).integers(0, 211, (7, 4, 20)))

    def residual(model: Forward, tokens_PT: np.ndarray) -> bytes:
        return model.run(tokens_PT, {}, stop_at_layer=3).numpy().tobytes()

    one = for_batches(weights, batches, residual, threads=1)
    assert one == for_batches(weights, batches, residual, threads=3)
    assert len(set(one)) == 7
