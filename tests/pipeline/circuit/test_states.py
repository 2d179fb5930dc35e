"""Token states, queries and keys against the Hugging Face forward pass, TransformerBridge and NumPy in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from qkatlas.pipeline.circuit.projection import head_inputs, head_weights, layer_weights
from qkatlas.pipeline.circuit.states import TokenStates, attention_means
from qkatlas.pipeline.models.checkpoint import Checkpoint
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.models.weights import ModelWeights
from qkatlas.pipeline.text.prompts import random_tokens


@pytest.mark.parametrize("variant", [{}, {"scale_attn_by_inverse_layer_idx": True}, {"scale_attn_weights": False}])
def test_queries_and_keys_give_the_attention_pattern_of_a_prompt(
    make_random_model: Callable[..., Path], variant: dict[str, bool]
) -> None:
    folder = make_random_model(1, **variant)
    model = GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").eval()
    prompt_T = torch.randint(0, 211, (1, 40), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        out = model(prompt_T, output_attentions=True, output_hidden_states=True)
    checkpoint = Checkpoint.open(folder)
    causal_TT = np.tril(np.ones((40, 40), bool))
    for layer in range(3):
        # The prompt's own residual stream stands in for token states: the same code, the model's own answer.
        residual_TD = out.hidden_states[layer][0].numpy()
        for head in range(8):
            inputs = head_inputs(head_weights(checkpoint, Head(layer, head)), residual_TD, threads=1)
            scores_TT = np.where(causal_TT, inputs.queries_VH @ inputs.keys_VH.T * inputs.scale, -np.inf)
            pattern_TT = np.exp(scores_TT - scores_TT.max(1, keepdims=True))
            pattern_TT /= pattern_TT.sum(1, keepdims=True)
            np.testing.assert_allclose(pattern_TT, out.attentions[layer][0, head].numpy(), atol=1e-5)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_states_equal_a_transformer_bridge_run_without_position_and_attention(random_model: Path, layer: int) -> None:
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    hf = GPT2LMHeadModel.from_pretrained(random_model, attn_implementation="eager").eval()
    bridge = build_bridge_from_module(hf, "GPT2LMHeadModel", hf_config=hf.config)
    silenced = ["hook_pos_embed", *(f"blocks.{below}.hook_attn_out" for below in range(layer))]
    hooks = [(name, lambda value, hook: torch.zeros_like(value)) for name in silenced]
    tokens_V1 = torch.arange(211)[:, None]
    with torch.no_grad():
        residual = bridge.run_with_hooks(tokens_V1, stop_at_layer=layer, return_type=None, fwd_hooks=hooks)
    ours = TokenStates(Checkpoint.open(random_model), "mlp", threads=1).advance_to(layer)
    np.testing.assert_allclose(ours, residual[:, 0].numpy(), atol=1e-4)


@pytest.mark.parametrize("threads", [1, 3])
def test_states_after_bos_equal_the_hidden_states_of_hugging_face(
    make_random_model: Callable[..., Path], threads: int
) -> None:
    folder = make_random_model(2, bos_token_id=17, scale_attn_by_inverse_layer_idx=True)
    model = GPT2LMHeadModel.from_pretrained(folder).eval()
    tokens_V2 = torch.stack([torch.full((211,), 17), torch.arange(211)], dim=1)
    with torch.no_grad():
        hidden = model(tokens_V2, output_hidden_states=True).hidden_states
    states = TokenStates(Checkpoint.open(folder), "bos", threads=threads)
    for layer in range(3):
        np.testing.assert_allclose(states.advance_to(layer), hidden[layer][:, 1].numpy(), atol=1e-4)


@pytest.mark.slow
def test_mean_states_equal_a_hugging_face_run_with_means_in_place_of_attention(random_model: Path) -> None:
    checkpoint = Checkpoint.open(random_model)
    weights = ModelWeights.read(checkpoint, "key")
    means_LD = attention_means(weights, range(1, 211), 2, threads=1)
    assert np.array_equal(means_LD, attention_means(weights, range(1, 211), 2, threads=3))

    # The same prompts through Hugging Face give the same means.
    seed = np.random.SeedSequence(0, spawn_key=(3,))
    tokens_PT = random_tokens(np.arange(1, 211), bos=0, count=32, length=47, seed=seed)
    assert len(np.unique(tokens_PT[0])) == 48
    model = GPT2LMHeadModel.from_pretrained(random_model).eval()
    outputs: dict[int, torch.Tensor] = {}
    hooks = [
        block.attn.register_forward_hook(lambda _, args, out, layer=layer: outputs.update({layer: out[0]}))
        for layer, block in enumerate(model.transformer.h)
    ]
    with torch.no_grad():
        model(torch.from_numpy(tokens_PT))
        for hook in hooks:
            hook.remove()
        for layer in range(2):
            np.testing.assert_allclose(means_LD[layer], outputs[layer][:, 1:].mean((0, 1)).numpy(), atol=1e-5)
        model.transformer.wpe.weight.copy_(model.transformer.wpe.weight.mean(0, keepdim=True).expand(48, -1))
        for layer in range(2):
            mean_D = torch.from_numpy(means_LD[layer])
            model.transformer.h[layer].attn.register_forward_hook(
                lambda _, args, out, mean_D=mean_D: (mean_D.expand_as(out[0]), *out[1:])
            )
        hidden = model(torch.arange(211)[:, None], output_hidden_states=True).hidden_states
    states = TokenStates(checkpoint, "mean", attention_means_LD=means_LD, threads=2)
    for layer in range(3):
        np.testing.assert_allclose(states.advance_to(layer), hidden[layer][:, 0].numpy(), atol=1e-4)


@pytest.mark.parametrize("kind", ["mlp", "bos"])
def test_states_of_some_tokens_are_rows_of_the_vocabulary(random_model: Path, kind: str) -> None:
    checkpoint = Checkpoint.open(random_model)
    whole, some = (TokenStates(checkpoint, kind, token_ids=ids, threads=1) for ids in (None, [7, 3, 200]))
    np.testing.assert_allclose(some.advance_to(2), whole.advance_to(2)[[7, 3, 200]], atol=1e-5)


@pytest.mark.parametrize("form", ["attention", "bilinear"])
@pytest.mark.parametrize("head", [Head(0, 0), Head(1, 3), Head(2, 1)])
def test_scores_equal_float64_numpy(
    random_model: Path, head: Head, form: str, reference_scores: Callable[..., np.ndarray]
) -> None:
    checkpoint = Checkpoint.open(random_model)
    inputs = head_inputs(
        head_weights(checkpoint, head, scores=form),
        TokenStates(checkpoint, "mlp", threads=1).advance_to(head.layer),
        threads=1,
    )
    scores_VV = inputs.queries_VH.astype(np.float64) @ inputs.keys_VH.T * inputs.scale
    expected_VV = reference_scores(random_model, head.layer, head.index, form)
    # The MLP blocks run in float32: an error of a few 1e-7 of the largest score is theirs.
    np.testing.assert_allclose(scores_VV, expected_VV, rtol=1e-5, atol=1e-6 * np.abs(expected_VV).max())


@pytest.mark.parametrize("activation", ["gelu", "relu", "silu", "gelu_pytorch_tanh", "gelu_fast", "tanh"])
def test_every_activation_is_that_of_the_model(make_random_model: Callable[..., Path], activation: str) -> None:
    folder = make_random_model(2, activation_function=activation, n_layer=2)
    block = GPT2LMHeadModel.from_pretrained(folder).eval().transformer.h[0]
    checkpoint = Checkpoint.open(folder)
    with torch.no_grad():
        x_VD = torch.from_numpy(checkpoint.tensor("wte.weight"))
        expected_VD = x_VD + block.mlp(block.ln_2(x_VD))
    np.testing.assert_allclose(TokenStates(checkpoint, "mlp", threads=1).advance_to(1), expected_VD.numpy(), atol=1e-5)


def test_bits_do_not_depend_on_threads(make_random_model: Callable[..., Path]) -> None:
    # Wide and ragged enough that a product over other blocks would change its last bits.
    folder = make_random_model(4, vocab_size=2500, n_embd=192, n_layer=2)
    checkpoint = Checkpoint.open(folder)
    one = TokenStates(checkpoint, "mlp", threads=1).advance_to(1)
    many = TokenStates(checkpoint, "mlp", threads=5).advance_to(1)
    np.testing.assert_array_equal(one, many)
    a, b = (head_inputs(head_weights(checkpoint, Head(1, 2)), one, threads=threads) for threads in (1, 5))
    np.testing.assert_array_equal(a.queries_VH, b.queries_VH)
    np.testing.assert_array_equal(a.keys_VH, b.keys_VH)


@pytest.mark.parametrize("form", ["attention", "bilinear"])
def test_weights_of_a_head_lie_row_by_row(random_model: Path, form: str) -> None:
    # Another order in memory changes the last bits of products, and with them every table of a run that exists.
    checkpoint = Checkpoint.open(random_model)
    assert head_weights(checkpoint, Head(1, 3), scores=form).w_qk_D2H.flags.c_contiguous
    assert layer_weights(checkpoint, 1).w_qk_D2H.flags.c_contiguous


def test_unknown_scores_and_heads_outside_are_refused(random_model: Path) -> None:
    checkpoint = Checkpoint.open(random_model)
    with pytest.raises(ValueError, match="'cosine' are unknown"):
        head_weights(checkpoint, Head(0, 0), scores="cosine")
    with pytest.raises(ValueError, match="L3H0 is outside"):
        head_weights(checkpoint, Head(3, 0))


def test_the_states_embedding_are_the_same_in_front_of_every_layer(random_model: Path) -> None:
    checkpoint = Checkpoint.open(random_model)
    states = TokenStates(checkpoint, "embedding", threads=1)
    np.testing.assert_array_equal(states.advance_to(2), checkpoint.tensor("wte.weight"))
    assert states.layer == 2
