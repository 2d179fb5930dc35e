"""Encoders of every architecture and normalisation against NumPy, and the convention that is chosen by measurement."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.dictionaries import ARCHITECTURES, encoded, new_config, random_tensors, write

from qkatlas.pipeline.features import encoder as encoding
from qkatlas.pipeline.features.config import DictionaryConfig
from qkatlas.pipeline.features.convention import folded, measure_convention, unexplained
from qkatlas.pipeline.features.dictionary import Dictionary
from qkatlas.pipeline.features.encoder import Encoder, normalise
from qkatlas.pipeline.features.kinds import AUTO, FOLDED, RAW, RESIDUAL, Z

pytestmark = pytest.mark.slow

NORMALISATIONS = ("none", "expected_average_only_in", "constant_norm_rescale", "layer_norm")
HOOK = "blocks.1.attn.hook_z"


def opened(folder: Path, config: dict[str, object], seed: int = 0) -> Encoder:
    tensors = random_tensors(str(config["architecture"]), 24, 70, seed)
    dictionary = Dictionary.open(write(folder, config, tensors))
    return Encoder(config=dictionary.config, tensors=dictionary.tensors())


@pytest.mark.parametrize("subtracts", [True, False])
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "topk by norm"])
def test_an_encoder_is_that_of_numpy(
    architecture: str, normalisation: str, subtracts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "BLOCK_FEATURES", 32)  # three blocks, the last of them shorter
    monkeypatch.setattr(encoding, "BLOCK_POSITIONS", 8)
    by_norm = architecture.endswith("by norm")
    config = new_config(
        architecture.partition(" ")[0], HOOK, 24, 70, apply_b_dec_to_input=subtracts,
        normalize_activations=normalisation, **({"rescale_acts_by_decoder_norm": True} if by_norm else {}),
    )  # fmt: skip
    found = opened(tmp_path, config)
    x_PX = np.random.default_rng(1).standard_normal((21, 24)) * 1.7 + 0.3
    active_PF, given_back_PX = encoded(config, found.tensors, x_PX)
    assert 0.02 < (active_PF > 0).mean() < 0.7
    x = torch.from_numpy(x_PX)
    u_PX = found.input(x)
    limit_P = found.limits(u_PX, threads=2)
    encoded_PF = torch.cat([found.encode(u_PX, features, limit_P)[0] for features in found.blocks()], dim=1)
    np.testing.assert_allclose(encoded_PF.numpy(), active_PF, atol=1e-12)
    np.testing.assert_allclose(found.reconstruct(x, threads=2).numpy(), given_back_PX, atol=1e-12)
    # What a part of an activation adds to a pre-activation is linear, at the position's own scale.
    normalised = normalise(found.config, x)
    for features in found.blocks():
        pre_PB = found.encode(u_PX, features, limit_P)[1]
        linear_PB = normalised.scale_P[:, None] * (x @ found.read(features)) + found.constant(features)
        np.testing.assert_allclose(linear_PB.numpy(), pre_PB.numpy(), atol=1e-11)


def trained(constant_X: np.ndarray) -> tuple[Encoder, torch.Tensor]:
    """A dictionary of activations without a constant, and activations with it."""
    rng = np.random.default_rng(5)
    basis = np.linalg.qr(rng.standard_normal((24, 24)))[0]
    active = rng.exponential(1.0, (400, 24)) * (rng.random((400, 24)) < 0.1)
    tensors = {
        "W_enc": basis.T, "W_dec": basis, "b_enc": np.zeros(24), "b_dec": np.zeros(24),
        "threshold": np.full(24, 0.05),
    }  # fmt: skip
    made = DictionaryConfig(architecture="jumprelu", reads=Z, layer=1, d_in=24, d_sae=24)
    tensors = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    return Encoder(config=made, tensors=tensors), torch.from_numpy(active @ basis + constant_X)


def test_the_convention_that_leaves_less_unexplained_is_taken() -> None:
    constant_X = np.random.default_rng(6).standard_normal(24)
    found, raw_PX = trained(constant_X)
    constant = torch.from_numpy(constant_X)
    measured = measure_convention(AUTO, found, raw_PX, constant, threads=1)
    assert measured.kind == FOLDED
    assert measured.differ
    assert measured.fvu_folded < 0.01 < 0.2 < measured.fvu_raw
    assert measured.fvu == measured.fvu_folded
    asked = measure_convention(RAW, found, raw_PX, constant, threads=1)
    assert (asked.kind, asked.fvu) == (RAW, measured.fvu_raw)
    # The other way round: activations that never had the constant.
    other = measure_convention(AUTO, found, raw_PX - constant, constant, threads=1)
    assert other.kind == RAW
    assert other.fvu_raw < 0.01 < 0.2 < other.fvu_folded


def test_without_value_biases_both_conventions_are_one() -> None:
    found, raw_PX = trained(np.zeros(24))
    measured = measure_convention(AUTO, found, raw_PX, torch.zeros(24, dtype=torch.float64), threads=1)
    assert not measured.differ
    assert measured.fvu_raw == measured.fvu_folded


def test_a_folded_residual_stream_is_centred_where_a_layer_norm_reads_it() -> None:
    x_PX = torch.randn(5, 6, dtype=torch.float64)
    anything = torch.zeros(6, dtype=torch.float64)
    np.testing.assert_allclose(folded(RESIDUAL, x_PX, anything).mean(dim=1).numpy(), 0, atol=1e-15)
    assert torch.equal(folded(RESIDUAL, x_PX, None), x_PX)


def test_what_is_unexplained_is_a_share_of_the_variance() -> None:
    found, raw_PX = trained(np.zeros(24))
    nothing = {name: np.zeros_like(tensor) for name, tensor in found.tensors.items()}
    mean = {**nothing, "b_dec": raw_PX.mean(dim=0).numpy().astype(np.float32)}
    assert unexplained(Encoder(config=found.config, tensors=mean), raw_PX, threads=1) == pytest.approx(1.0, abs=1e-6)
