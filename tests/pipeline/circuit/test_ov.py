"""The OV circuit against transformers' own modules in float64, table by table, and on a real prompt (about 30 s)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from support.checkpoints import reference
from support.families import EVERY, make

from qkatlas.pipeline.circuit.ov import OvWeights, Unembedding, ov_inputs, ov_weights, unembedding_of
from qkatlas.pipeline.circuit.ov_spectrum import ov_spectrum
from qkatlas.pipeline.circuit.spectrum import cross_moment
from qkatlas.pipeline.models.checkpoint import Checkpoint
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.scoring.engine import score_rows
from qkatlas.pipeline.scoring.rows import PreparedKeys

Array = npt.NDArray[np.float64]
K = 10
LAYER = 1


@dataclass
class Block:
    """A layer's attention as transformers has it, and what reads the stream at the end."""

    norm: Any
    attention: Any
    values: Callable[[Any], Any]  # [T, M, H] of normalised states
    output_DP: Any
    output_bias_D: Any
    after_gain_D: Any
    final_gain_D: Any
    final_centres: bool
    unembedding_VD: Any

    @classmethod
    def of(cls, model: Any, layer: int) -> Block:
        config = model.config
        kind, width = (
            config.model_type,
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        )
        if kind == "gpt2":
            block, final = model.transformer.h[layer], model.transformer.ln_f
            attention, output, norm = block.attn, block.attn.c_proj.weight.T, block.ln_1
            bias = block.attn.c_proj.bias
            fused = lambda x: attention.c_attn(x).split(config.hidden_size, dim=-1)[2]  # noqa: E731
            values = lambda x: fused(x).unflatten(-1, (-1, width))  # noqa: E731
        elif kind == "gpt_neox":
            block, final = model.gpt_neox.layers[layer], model.gpt_neox.final_layer_norm
            attention, norm = block.attention, block.input_layernorm
            output, bias = attention.dense.weight, attention.dense.bias
            values = lambda x: attention.query_key_value(x).unflatten(-1, (-1, 3 * width))[..., 2 * width :]  # noqa: E731
        else:
            block, final = model.model.layers[layer], model.model.norm
            attention, norm = block.self_attn, block.input_layernorm
            output, bias = attention.o_proj.weight, attention.o_proj.bias
            values = lambda x: attention.v_proj(x).unflatten(-1, (-1, width))  # noqa: E731
        one = 1.0 if kind.startswith("gemma") else 0.0
        after = one + block.post_attention_layernorm.weight if kind in ("gemma2", "gemma3_text") else None
        return cls(
            norm=norm, attention=attention, values=values, output_DP=output, output_bias_D=bias, after_gain_D=after,
            final_gain_D=one + final.weight, final_centres=kind in ("gpt2", "gpt_neox"),
            unembedding_VD=model.get_output_embeddings().weight,
        )  # fmt: skip

    def read(self, write_TD: Any, unembed: str) -> Array:
        """What is added to the stream, read through the unembedding."""
        if unembed == "raw":
            return np.asarray((write_TD @ self.unembedding_VD.T).numpy())
        if self.after_gain_D is not None:
            write_TD = write_TD * self.after_gain_D
        if self.final_centres:
            write_TD = write_TD - write_TD.mean(dim=-1, keepdim=True)
        centred_VD = self.unembedding_VD - self.unembedding_VD.mean(dim=0)
        return np.asarray(((write_TD * self.final_gain_D) @ centred_VD.T).numpy())

    def table(self, states_TD: Any, head: int, unembed: str) -> Array:
        """OV of attended states [T, V], in float64."""
        values_TMH = self.values(self.norm(states_TD))
        heads, width = self.output_DP.shape[1] // values_TMH.shape[2], values_TMH.shape[2]
        value_TH = values_TMH[:, head * values_TMH.shape[1] // heads]
        mixed_TP = torch.zeros(len(states_TD), self.output_DP.shape[1], dtype=torch.float64)
        mixed_TP[:, head * width : (head + 1) * width] = value_TH
        return self.read(mixed_TP @ self.output_DP.T, unembed)


@pytest.fixture(params=["gpt2", *EVERY])
def opened(
    request: pytest.FixtureRequest, tmp_path: Path, make_random_model: Callable[..., Path]
) -> tuple[Any, Checkpoint]:
    folder = make_random_model(3, vocab_size=97) if request.param == "gpt2" else make(request.param, tmp_path)
    return reference(folder), Checkpoint.open(folder)


def states_of(checkpoint: Checkpoint) -> npt.NDArray[np.float32]:
    """Any states will do."""
    a = checkpoint.architecture
    return np.random.default_rng(1).standard_normal((a.vocab_size, a.d_model)).astype(np.float32) * 2 + 0.3


def check(weights: OvWeights, unembedding: Unembedding, states_VD: Any, expected_VV: Array) -> None:
    """Assert ids, own ranks and scores against whole rows; ids may differ where scores nearly agree."""
    inputs = ov_inputs(weights, states_VD, unembedding.rows_VD, threads=2)
    own_V = np.arange(len(expected_VV))
    within = 1e-6 * np.abs(expected_VV).max()
    for lowest in (False, True):
        found = score_rows(inputs.values_VH, PreparedKeys(inputs.outputs_VH), row_ids_R=own_V, k=K, lowest=lowest)
        ordered_VV = np.sort(expected_VV, axis=1) if lowest else -np.sort(-expected_VV, axis=1)
        at_VK = np.take_along_axis(expected_VV, found.key_ids_RK, axis=1)
        np.testing.assert_allclose(found.scores_RK, at_VK, atol=within)
        np.testing.assert_allclose(at_VK, ordered_VV[:, :K], atol=2 * within)
        assert (found.key_ids_RK == np.argsort(expected_VV if lowest else -expected_VV, axis=1)[:, :K]).mean() > 0.99
        own = expected_VV[own_V, own_V]
        np.testing.assert_allclose(found.self_score_R, own, atol=within)
        np.testing.assert_allclose(found.row_mean_R, expected_VV.mean(axis=1), atol=within)
        sign = -1 if lowest else 1
        least = 1 + (sign * expected_VV > (sign * own + within)[:, None]).sum(axis=1)
        most = (sign * expected_VV > (sign * own - within)[:, None]).sum(axis=1)  # the own one is among them
        assert ((least <= found.self_rank_R) & (found.self_rank_R <= most)).all()
        assert (least == most).mean() > 0.95  # so that the ranks were told


@pytest.mark.parametrize("unembed", ["folded", "raw"])
def test_tables_equal_brute_force(opened: tuple[Any, Checkpoint], unembed: str) -> None:
    model, checkpoint = opened
    states_VD = states_of(checkpoint)
    block, unembedding = Block.of(model, LAYER), unembedding_of(checkpoint, unembed)
    for head in (0, checkpoint.architecture.n_heads - 1):
        weights = ov_weights(checkpoint, Head(LAYER, head), unembedding)
        if unembed == "raw" and block.after_gain_D is not None:
            block.unembedding_VD = model.get_output_embeddings().weight * block.after_gain_D  # the one gain that stays
        with torch.no_grad():
            expected_VV = block.table(torch.from_numpy(states_VD).double(), head, unembed)
        check(weights, unembedding, states_VD, expected_VV)


def test_heads_and_biases_sum_to_the_attention_of_a_real_prompt(opened: tuple[Any, Checkpoint]) -> None:
    model, checkpoint = opened
    a = checkpoint.architecture
    if a.after_norms:
        pytest.skip("what attention adds is normalised as a whole, so that no sum over heads is")
    block, unembedding = Block.of(model, LAYER), unembedding_of(checkpoint, "folded")
    heard: list[Any] = []
    block.attention.register_forward_hook(lambda module, args, output: heard.append(output[0]))
    tokens_1T = torch.from_numpy(np.random.default_rng(2).integers(3, a.vocab_size, (1, 30)))
    with torch.no_grad():
        out = model(tokens_1T, output_hidden_states=True, output_attentions=True)
        real_TV = block.read(heard[0][0], "folded")
    states_TD = out.hidden_states[LAYER][0].numpy().astype(np.float32)
    patterns_NTT = out.attentions[LAYER][0].numpy()
    sum_TV = np.zeros_like(real_TV)
    for head in range(a.n_heads):
        inputs = ov_inputs(
            ov_weights(checkpoint, Head(LAYER, head), unembedding), states_TD, unembedding.rows_VD, threads=1
        )
        sum_TV += patterns_NTT[head] @ (inputs.values_VH.astype(np.float64) @ inputs.outputs_VH.T)
    if block.output_bias_D is not None:
        with torch.no_grad():
            sum_TV += block.read(block.output_bias_D[None], "folded")
    np.testing.assert_allclose(sum_TV, real_TV, atol=1e-5 * np.abs(real_TV).max())


@pytest.mark.parametrize("slip", ["gain twice", "not centred", "vocabulary not centred", "key head", "transposed"])
def test_slips_show(slip: str, tmp_path: Path, make_random_model: Callable[..., Path]) -> None:
    """Each mistake that is easily made fails the comparison that the true weights pass."""
    grouped = slip == "key head"
    folder = make("llama-groups-of-3", tmp_path) if grouped else make_random_model(3, vocab_size=97)
    model, checkpoint = reference(folder), Checkpoint.open(folder)
    states_VD = states_of(checkpoint)
    unembedding = unembedding_of(checkpoint, "folded")
    head = Head(LAYER, 5 if grouped else 1)
    with torch.no_grad():
        expected_VV = Block.of(model, LAYER).table(torch.from_numpy(states_VD).double(), head.index, "folded")
    weights = ov_weights(checkpoint, head, unembedding)
    check(weights, unembedding, states_VD, expected_VV)
    if slip == "gain twice":
        wrong = replace(weights, w_v_DH=weights.gain_D[:, None] * weights.w_v_DH)
    elif slip == "not centred":
        wrong = ov_weights(checkpoint, head, replace(unembedding, centres=False))
    elif slip == "vocabulary not centred":
        wrong = replace(weights, b_out_H=np.zeros_like(weights.b_out_H))
    elif slip == "key head":
        other = ov_weights(checkpoint, Head(LAYER, 0), unembedding)
        wrong = replace(weights, w_v_DH=other.w_v_DH, b_v_H=other.b_v_H)
    else:
        wrong = replace(weights, w_out_DH=np.ascontiguousarray(weights.w_out_DH.reshape(*weights.w_out_DH.T.shape).T))
    with pytest.raises(AssertionError):
        check(wrong, unembedding, states_VD, expected_VV)


def test_spectrum_is_that_of_the_whole_table(opened: tuple[Any, Checkpoint]) -> None:
    """Eigenvalues of the V x V table of brute force, biases aside, less those that are zero."""
    model, checkpoint = opened
    a = checkpoint.architecture
    states_VD, unembedding, head = states_of(checkpoint), unembedding_of(checkpoint, "folded"), Head(LAYER, 1)
    block, states = Block.of(model, LAYER), torch.from_numpy(states_VD).double()
    with torch.no_grad():
        zero = block.table(torch.zeros(1, a.d_model, dtype=torch.float64), 1, "folded")  # what biases alone write
        expected = np.linalg.eigvals(block.table(states, 1, "folded") - zero) / a.vocab_size
    expected = expected[np.argsort(-np.abs(expected))[: a.d_head]]
    x_VD = states_VD.astype(np.float64)
    if a.norm.kind == "layer":
        x_VD = x_VD - x_VD.mean(axis=1, keepdims=True)
    normalised_VD = (x_VD / np.sqrt((x_VD**2).mean(axis=1, keepdims=True) + a.norm.eps)).astype(np.float32)
    moment_DD = cross_moment(unembedding.centred(), normalised_VD, threads=2)
    found = ov_spectrum(ov_weights(checkpoint, head, unembedding).form, moment_DD, head, seed=0)
    size = np.abs(expected).max()
    np.testing.assert_allclose(np.sort(found.eigenvalues_H.real), np.sort(expected.real), atol=1e-5 * size)
    np.testing.assert_allclose(np.sort(found.eigenvalues_H.imag), np.sort(expected.imag), atol=1e-5 * size)
    np.testing.assert_allclose(found.copying_score.value, expected.real.sum() / np.abs(expected).sum(), atol=1e-5)
    assert (np.diff(found.eigenvalues_H.real) <= 0).all()
    assert abs(found.copying_score.mean) < 3 * found.copying_score.std  # a random head is no better than random heads


def test_random_heads_have_no_copying_score() -> None:
    rng = np.random.default_rng(0)
    a_DH, b_DH = rng.standard_normal((2, 96, 12))
    own = ov_spectrum((a_DH, b_DH), np.eye(96), Head(0, 0), seed=0)
    same = ov_spectrum((a_DH, a_DH), np.eye(96), Head(0, 0), seed=0)
    assert abs(own.copying_score.value) < 0.6
    assert same.copying_score.value == pytest.approx(1)
    assert same.copying_score.z is not None
    assert same.copying_score.z > 3
