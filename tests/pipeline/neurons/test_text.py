"""What heads of layer 0 write of tokens and positions, against transformers' eager forward pass in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.checkpoints import reference
from support.families import make
from support.float64 import all_in_float64

from qkatlas.pipeline.models.checkpoint import Checkpoint
from qkatlas.pipeline.neurons.block import FirstBlock
from qkatlas.pipeline.neurons.extended import extended_embeddings
from qkatlas.pipeline.neurons.heads import bags_of_heads
from qkatlas.pipeline.neurons.text import calibrated, destinations, median_scale_2, mix, streams_of

WINDOWS, LENGTH = 3, 20


class InModel:
    """A checkpoint, its first block, and the pre-activations that transformers computes on some windows."""

    def __init__(self, folder: Path) -> None:
        self.checkpoint = Checkpoint.open(folder)
        a = self.checkpoint.architecture
        bos = a.require_bos()
        self.tokens_BT = np.random.default_rng(0).integers(3, a.vocab_size, (WINDOWS, LENGTH))
        self.tokens_BT[:, 0] = bos
        self.weight_V = np.ones(a.vocab_size)
        self.weight_V[bos] = 0
        self.weight_V /= self.weight_V.sum()
        self.block = FirstBlock.of(self.checkpoint, LENGTH)
        self.bags, self.scale_T = bags_of_heads(self.block, self.weight_V, threads=1)
        self.n_R = destinations(LENGTH)

    def mixed(self, block: FirstBlock | None = None, tokens_BT: np.ndarray | None = None) -> Any:
        return mix(
            block or self.block, self.bags, self.tokens_BT if tokens_BT is None else tokens_BT, group=[1, 3],
            scale_T=self.scale_T, median_position=LENGTH // 2, threads=1,
        )  # fmt: skip

    def expected(self, folder: Path, name: str) -> np.ndarray:
        """What a module of the first layer gives at the places that are read, float64 [R, J]."""
        model, heard = reference(folder), []
        (module,) = [one for path, one in model.named_modules() if path.endswith(name)]
        module.register_forward_hook(lambda *given: heard.append(given[-1].detach()))
        with all_in_float64(), torch.no_grad():
            model(torch.from_numpy(self.tokens_BT))
        return heard[0][:, self.n_R].flatten(0, 1).numpy()

    def pre_activations(self, mixed: Any, block: FirstBlock | None = None) -> np.ndarray:
        """Direct path, all heads and biases, over the true sigma_2."""
        block = block or self.block
        stream_RD = mixed.real_stream(block)
        normed_RD = stream_RD / block.scale_2(stream_RD)[:, None]
        return (normed_RD @ block.read_JD.T + block.bias_J).numpy()


@pytest.fixture(scope="module")
def learned(random_model: Path) -> tuple[InModel, np.ndarray]:
    found = InModel(random_model)
    return found, found.expected(random_model, "h.0.mlp.c_fc")


def test_direct_path_all_heads_and_biases_are_the_pre_activation(learned: tuple[InModel, np.ndarray]) -> None:
    found, expected_RJ = learned
    np.testing.assert_allclose(found.pre_activations(found.mixed()), expected_RJ, rtol=0, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "module"),
    [("llama-groups-of-3", "layers.0.mlp.gate_proj"), ("mistral", "layers.0.mlp.gate_proj"),
     ("qwen3-biases", "layers.0.mlp.gate_proj"), ("gemma", "layers.0.mlp.gate_proj"),
     ("llama-biases", "layers.0.mlp.gate_proj"), ("neox-sequential", "layers.0.mlp.dense_h_to_4h")],
)  # fmt: skip
def test_so_they_are_in_rotary_families(variant: str, module: str, tmp_path: Path) -> None:
    folder = make(variant, tmp_path)
    found = InModel(folder)
    mixed = found.mixed()
    # The embedding of Gemma is scaled, and rounded to float32 once more here as in its own precision.
    within = 1e-6 if variant == "gemma" else 1e-10
    np.testing.assert_allclose(found.pre_activations(mixed), found.expected(folder, module), rtol=0, atol=within)
    assert float(mixed.position.abs().max()) == 0  # nothing of a position is in the stream


WRONG: dict[str, Callable[[FirstBlock], FirstBlock]] = {
    "constants left out": lambda block: replace(block, constant_D=torch.zeros_like(block.constant_D)),
    "constants of values twice": lambda block: replace(block, constant_D=2 * block.constant_D),
    "the second norm's gain left out": lambda block: replace(block, read_JD=block.read_JD.flip(1)),
    "heads in another order": lambda block: replace(block, output_NHD=block.output_NHD.roll(1, 0)),
    "sign of values": lambda block: replace(block, value_NDH=-block.value_NDH),
    "epsilon of the second norm": lambda block: replace(block, norm_2=replace(block.norm_2, eps=1e-3)),
    "no bias": lambda block: replace(block, bias_J=torch.zeros_like(block.bias_J)),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_blocks_fail(learned: tuple[InModel, np.ndarray], wrong: str) -> None:
    found, expected_RJ = learned
    block = WRONG[wrong](found.block)
    assert np.abs(found.pre_activations(found.mixed(block), block) - expected_RJ).max() > 1e-5


def test_what_positions_give_of_values_is_part_of_it(learned: tuple[InModel, np.ndarray]) -> None:
    found, expected_RJ = learned
    mixed = found.mixed()
    without = replace(mixed, position=torch.zeros_like(mixed.position))
    assert np.abs(found.pre_activations(without) - expected_RJ).max() > 0.01


def test_bags_denominators_and_medians_are_those_of_brute_force(learned: tuple[InModel, np.ndarray]) -> None:
    """NumPy's sums over keys, token by token, from the tensors as they are stored."""
    found, _ = learned
    t = {name: found.checkpoint.tensor(name).astype(float) for name in found.checkpoint.tensor_names()}
    mixed = found.mixed()
    rows, star = len(found.n_R), LENGTH // 2

    def normed(x: np.ndarray) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)

    token_VD = t["wte.weight"] - t["wte.weight"].mean(1, keepdims=True)
    position_TD = t["wpe.weight"][:LENGTH] - t["wpe.weight"][:LENGTH].mean(1, keepdims=True)
    x_VTD = normed(token_VD[:, None] + position_TD)
    gain, shift = t["h.0.ln_1.weight"], t["h.0.ln_1.bias"]
    qkv_VTX = (x_VTD * gain + shift) @ t["h.0.attn.c_attn.weight"] + t["h.0.attn.c_attn.bias"]
    head, width = 3, 8
    q, k = (qkv_VTX[..., part * 64 + head * width : part * 64 + (head + 1) * width] for part in (0, 1))
    query_TH, key_TH = (np.einsum("v,vth->th", found.weight_V, values) for values in (q, k))
    scale = width**-0.5
    kappa = scale * query_TH @ key_TH.T
    last = LENGTH - 1
    p_last = np.exp(kappa[last, 1:])
    p_last /= p_last.sum()
    c_VT = scale * (k[:, 1:] @ query_TH[last]) - kappa[last, 1:]
    f_V = np.exp(c_VT @ p_last)
    f_V[found.checkpoint.architecture.require_bos()] = 0
    np.testing.assert_allclose(found.bags[head].factor_V, f_V, rtol=1e-9)
    sigma_V = np.sqrt(((token_VD + position_TD[star]) ** 2).mean(1) + 1e-5)
    w_v = gain[:, None] * t["h.0.attn.c_attn.weight"][:, 128 + head * width : 128 + (head + 1) * width]
    value_VH = token_VD / sigma_V[:, None] @ w_v
    for b in range(WINDOWS):
        for place, n in enumerate(found.n_R):
            p = np.exp(kappa[n, 1 : n + 1])
            total = p.sum()
            tokens = found.tokens_BT[b, 1 : n + 1]
            bos = np.exp(scale * k[found.tokens_BT[b, 0], 0] @ query_TH[n]) / total
            denominator = (p / total) @ f_V[tokens] + bos
            at = b * rows + place
            assert float(mixed.denominator_NR[head, at]) == pytest.approx(denominator, rel=1e-9)
            assert float(mixed.bos_share_NR[head, at]) == pytest.approx(bos / denominator, rel=1e-9)
            expected_H = ((p / total) * f_V[tokens]) @ value_VH[tokens]
            np.testing.assert_allclose(mixed.bag[head, at], expected_H, rtol=1e-8, atol=1e-12)
    bags = calibrated(found.bags, mixed)
    assert bags[head].denominator == pytest.approx(np.median(mixed.denominator_NR[head]))
    extended_VD = extended_embeddings(found.block, bags, [head], median_position=star, threads=1)
    w_o = t["h.0.attn.c_proj.weight"][head * width : (head + 1) * width]
    expected_VD = (f_V / bags[head].denominator)[:, None] * value_VH @ w_o
    expected_VD -= expected_VD.mean(1, keepdims=True)
    np.testing.assert_allclose(extended_VD, expected_VD, rtol=1e-5, atol=1e-6)


def test_streams_add_up(learned: tuple[InModel, np.ndarray]) -> None:
    """With every head in the group and real sums in place of bags, the approximate stream is the real one."""
    found, _ = learned
    mixed = found.mixed()
    every = list(range(8))
    scale_2 = median_scale_2(found.block, mixed)
    exact = replace(mixed, bag=mixed.token, kernel=mixed.position + mixed.bos, bos_value_NH=0 * mixed.bos_value_NH)
    streams = streams_of(found.block, found.bags, exact, group=every, scale_2=scale_2, windows=WINDOWS)
    stream_RD = mixed.real_stream(found.block)
    np.testing.assert_allclose(streams.approximate * scale_2, stream_RD, atol=1e-10)
    np.testing.assert_allclose(streams.bag, streams.group, atol=1e-12)
    some = streams_of(found.block, found.bags, mixed, group=[2], scale_2=scale_2, windows=WINDOWS)
    own = replace(mixed, own=torch.zeros_like(mixed.own))
    without = streams_of(found.block, found.bags, own, group=[2], scale_2=scale_2, windows=WINDOWS)
    others = found.block.centred(found.block.write(mixed.own, [0, 1, 3, 4, 5, 6, 7])) / scale_2
    np.testing.assert_allclose(some.approximate - without.approximate, others, atol=1e-10)
