"""Attention, direct feature attribution and QK parts against transformers' eager attention, in all families."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.checkpoints import reference
from support.dictionaries import ARCHITECTURES, mixed_values, new_config, random_tensors, write
from support.families import VARIANTS, make, raw_scores
from support.float64 import all_in_float64

from qkatlas.pipeline.circuit.projection import head_weights
from qkatlas.pipeline.features.attention import LayerHeads
from qkatlas.pipeline.features.attention import mixed_values as mix
from qkatlas.pipeline.features.convention import folded
from qkatlas.pipeline.features.dictionary import Dictionary
from qkatlas.pipeline.features.encoder import Encoder, normalise
from qkatlas.pipeline.features.kinds import RESIDUAL, Z
from qkatlas.pipeline.features.qk import (
    ERROR,
    KEY,
    QUERY,
    TypicalScales,
    feature_vectors,
    side_parts,
    taken_apart,
)  # fmt: skip
from qkatlas.pipeline.features.sources import direct
from qkatlas.pipeline.models.checkpoint import Checkpoint
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.models.layers import capped
from qkatlas.pipeline.models.rotary import Offsets

pytestmark = pytest.mark.slow

LENGTH, WINDOWS = 20, 2
GPT2 = "gpt2"
KINDS = [GPT2, "llama-groups-of-3", "llama-biases", "llama-yarn", "qwen2-windows", "qwen3-biases", "gemma-2", "gemma-3",
         "neox"]  # fmt: skip


class InModel:
    """A checkpoint, and what its own attention does on some windows."""

    def __init__(self, variant: str, folder: Path) -> None:
        if variant == GPT2:
            from transformers import GPT2Config, GPT2LMHeadModel

            torch.manual_seed(3)
            model = GPT2LMHeadModel(GPT2Config(vocab_size=97, n_positions=64, n_embd=48, n_layer=3, n_head=6,
                                               bos_token_id=1))  # fmt: skip
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    gain = "ln_" in name and name.endswith("weight")
                    parameter.copy_(torch.randn_like(parameter) * (0.4 if gain else 0.2) + float(gain))
            model.save_pretrained(folder)
        else:
            assert variant in VARIANTS
            make(variant, folder)
        self.checkpoint = Checkpoint.open(folder)
        self.tokens_WT = np.random.default_rng(0).integers(3, 90, (WINDOWS, LENGTH))
        self.tokens_WT[:, 0] = 1
        model = reference(folder)
        tokens = torch.from_numpy(self.tokens_WT)
        with all_in_float64():
            self.scores, scored = raw_scores(model, tokens)
        self.scored = scored  # what its scores are of: softmax is taken in float32 there
        self.mixed, hidden = mixed_values(model, tokens)
        self.hidden = [states.numpy() for states in hidden]


@pytest.fixture(scope="module", params=KINDS)
def in_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> InModel:
    return InModel(request.param, tmp_path_factory.mktemp("model"))


def encoder_of(folder: Path, architecture: str, hook: str, width: int, **more: object) -> Encoder:
    config = new_config(architecture, hook, width, 80, **more)
    dictionary = Dictionary.open(write(folder, config, random_tensors(architecture, width, 80, 4)))
    return Encoder(config=dictionary.config, tensors=dictionary.tensors())


def test_mixed_values_are_the_models_own(in_model: InModel) -> None:
    a = in_model.checkpoint.architecture
    for layer in range(a.n_layers):
        heads = LayerHeads.of(in_model.checkpoint, layer)
        found_WTX = heads.mixed(in_model.hidden[layer], threads=1)
        np.testing.assert_allclose(found_WTX, in_model.mixed[layer], atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("convention", ["raw", "folded"])
def test_direct_attribution_adds_up_to_the_pre_activation(
    in_model: InModel, architecture: str, convention: str, tmp_path: Path
) -> None:
    a = in_model.checkpoint.architecture
    width = a.n_heads * a.d_head
    heads = LayerHeads.of(in_model.checkpoint, 1)
    more = {"normalize_activations": "layer_norm"} if architecture == "jumprelu" else {}
    encoder = encoder_of(tmp_path, architecture, "blocks.1.attn.hook_z", width, **more)
    features = slice(0, 80)
    for window in range(WINDOWS):
        x_TD = torch.from_numpy(in_model.hidden[1][window])
        value_TX, z_TX = heads.values(x_TD), in_model.mixed[1][window]
        if convention == "folded":
            value_TX, z_TX = value_TX - heads.constant(), folded(Z, z_TX, heads.constant())
        pattern_NTT = heads.patterns(x_TD)
        pre_TF = encoder.encode(encoder.input(z_TX), features, torch.zeros(LENGTH, dtype=torch.float64))[1]
        scale_T = normalise(encoder.config, z_TX).scale_P
        for n in (1, 7, LENGTH - 1):
            n_Q = torch.full((80,), n)
            dfa_QNT = direct(pattern_NTT, value_TX, encoder.read(features), n_Q)
            assert not dfa_QNT[:, :, n + 1 :].any()
            total_Q = dfa_QNT.sum(dim=(1, 2)) * scale_T[n] + encoder.constant(features)
            np.testing.assert_allclose(total_Q, pre_TF[n], atol=1e-10)


def test_the_parts_of_a_real_pair_add_up_to_its_score(in_model: InModel, tmp_path: Path) -> None:
    a = in_model.checkpoint.architecture
    layer = 1
    encoder = encoder_of(tmp_path, "jumprelu", f"blocks.{layer}.hook_resid_pre", a.d_model)
    worst, largest = 0.0, 0.0
    for head in (0, a.n_heads - 1):
        weights = head_weights(in_model.checkpoint, Head(layer, head))
        for window in range(WINDOWS):
            raw_TD = in_model.scored[layer][window]
            for centre in (None, torch.zeros(1)) if weights.norm.kind == "layer" else (None,):
                x_TD = folded(RESIDUAL, raw_TD, centre)
                for n, i in ((3, 1), (6, 6), (LENGTH - 1, LENGTH - 4)):
                    sides = []
                    for side, position in ((QUERY, n), (KEY, i)):
                        fires, parts_CD = taken_apart(encoder, x_TD, position, None)
                        assert 5 < len(fires) < 80
                        np.testing.assert_allclose(parts_CD.sum(dim=0), x_TD[position], atol=1e-12)
                        assert parts_CD[ERROR].norm() > 0.1
                        sides.append(side_parts(weights, side, x_TD[position], parts_CD, position))
                    total = (sides[0] @ sides[1].T * weights.scale).sum()
                    real = in_model.scores[layer][window, head, n, i]
                    worst = max(worst, float(abs(capped(total, weights.cap) - real)))
                    largest = max(largest, float(abs(real)))
    assert worst < 1e-10, worst
    assert largest > 0.1


def test_a_feature_meets_a_token_as_a_unit_of_it_changes_the_score(in_model: InModel, tmp_path: Path) -> None:
    """A score is linear in a state but for the norms' scales: those of the one position here."""
    a = in_model.checkpoint.architecture
    encoder = encoder_of(tmp_path, "standard", "blocks.1.hook_resid_pre", a.d_model)
    weights = head_weights(in_model.checkpoint, Head(1, a.n_heads - 1))
    x_TD = torch.from_numpy(in_model.hidden[1][0])
    n, i = 9, 5
    typical = TypicalScales.of(weights, x_TD[n : n + 1])
    offset = None if weights.rotary is None else Offsets(n - i, n - i)
    query_FH = feature_vectors(weights, QUERY, encoder.written(slice(0, 80)), typical, offset)
    fires, parts_CD = taken_apart(encoder, x_TD, n, None)
    active_F = encoder.encode(encoder.input(x_TD), slice(0, 80), None)[0][n]
    own_CH = side_parts(weights, QUERY, x_TD[n], parts_CD, n)[: len(fires)]
    zero = parts_CD.new_zeros((2, a.d_model))
    key_CH = side_parts(weights, KEY, x_TD[i], zero + x_TD[i] / 2, i)
    if weights.rotary is not None:  # a query turned by the offset meets a key that is not turned
        key_H = side_parts(weights, KEY, x_TD[i], zero + x_TD[i] / 2, 0).sum(dim=0)
    else:
        key_H = key_CH.sum(dim=0)
    expected_E = own_CH @ key_CH.sum(dim=0) / active_F[fires]
    found_E = torch.from_numpy(query_FH[fires].astype(np.float64)) @ key_H
    np.testing.assert_allclose(found_E, expected_E, atol=2e-5 * float(expected_E.abs().max()))


def test_mixing_is_a_sum_over_sources() -> None:
    rng = np.random.default_rng(0)
    pattern_NTT = torch.from_numpy(rng.dirichlet(np.ones(5), (3, 5)))
    value_TX = torch.from_numpy(rng.standard_normal((5, 12)))
    expected = np.einsum("nts,snh->tnh", pattern_NTT.numpy(), value_TX.numpy().reshape(5, 3, 4)).reshape(5, 12)
    np.testing.assert_allclose(mix(pattern_NTT, value_TX), expected, atol=1e-14)
