"""States in context against the mean of transformers' own hidden states in float64, over windows that NumPy chooses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.checkpoints import edit_weights, reference
from support.families import make
from support.gguf_files import real_model

from qkatlas.pipeline.circuit.context import ContextStates, likeliest_windows
from qkatlas.pipeline.circuit.kinds import PREFIX
from qkatlas.pipeline.circuit.states import TokenStates
from qkatlas.pipeline.models.checkpoint import Checkpoint
from qkatlas.pipeline.text.calibration import calibration_windows

LAST_CAP = {"final_logit_softcapping": 1.0}
"""So low that it changes which windows are the likeliest."""

VARIANTS: dict[str, dict[str, Any]] = {
    "llama-groups-of-3": {},
    "llama-biases": {},
    "llama-wide-heads": {},  # tied
    "llama-yarn": {},
    "mistral": {},  # a window of 7 positions, where a token stands at 10
    "qwen3": {},
    "gemma": {},
    "gemma-2": LAST_CAP,
    "gemma-3": {},
    "neox": {},
    "neox-sequential": {},
    "neox-no-bias": {},
}
QUICK = ("gemma-2",)
EVERY = [pytest.param(variant, marks=[pytest.mark.slow] * (variant not in QUICK)) for variant in VARIANTS]


def random_windows(count: int, vocab_size: int, length: int = 8) -> np.ndarray:
    return np.random.default_rng(3).integers(0, vocab_size, (count, length))


def chosen_by_numpy(model: Any, windows_WC: np.ndarray, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows by the probabilities of the model's own logits, and these probabilities' logarithms [V, W]."""
    parts = torch.from_numpy(windows_WC).split(64)
    with torch.no_grad():
        logits_WV = torch.cat([model(part).logits[:, -1] for part in parts]).double().numpy()
    shifted_WV = logits_WV - logits_WV.max(axis=1, keepdims=True)
    log_p_WV = shifted_WV - np.log(np.exp(shifted_WV).sum(axis=1, keepdims=True))
    return np.argsort(-log_p_WV.T, axis=1, kind="stable")[:, :draws], log_p_WV.T


def mean_hidden(model: Any, windows_WC: np.ndarray, chosen_VS: np.ndarray, token_ids: np.ndarray) -> list[np.ndarray]:
    """For each layer the mean over windows of what enters it at the token, [V, D]."""
    contexts = windows_WC[chosen_VS]  # [V, S, C]
    own = np.broadcast_to(token_ids[:, None, None], (*chosen_VS.shape, 1))
    tokens_RT = torch.from_numpy(np.concatenate([contexts, own], axis=2).reshape(chosen_VS.size, -1))
    with torch.no_grad():
        hidden = model(tokens_RT, output_hidden_states=True).hidden_states
    return [one[:, -1].reshape(*chosen_VS.shape, -1).numpy().mean(axis=1) for one in hidden[:-1]]


def require_states(folder: Path, prefix: list[int], draws: int, n_windows: int = 70) -> None:
    model, checkpoint = reference(folder), Checkpoint.open(folder)
    vocab_size = checkpoint.architecture.vocab_size
    windows_WT = random_windows(n_windows, vocab_size)
    windows_WC = np.concatenate([np.tile(np.array(prefix, int), (n_windows, 1)), windows_WT], axis=1)
    expected_VS, _ = chosen_by_numpy(model, windows_WC, draws)
    found_VS = likeliest_windows(checkpoint, windows_WT, prefix=prefix, draws=draws, threads=2)
    np.testing.assert_array_equal(found_VS, expected_VS)
    assert len(np.unique(found_VS)) > 10
    states = ContextStates(checkpoint, windows_WT, prefix=prefix, draws=draws, threads=2)
    hidden = mean_hidden(model, windows_WC, expected_VS, np.arange(vocab_size))
    assert len(hidden) == checkpoint.architecture.n_layers
    for layer, expected_VD in enumerate(hidden):
        found_VD = states.advance_to(layer)
        assert (states.layer, found_VD.dtype) == (layer, np.float32)
        np.testing.assert_allclose(found_VD, expected_VD, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", EVERY)
def test_states_are_the_mean_hidden_states_behind_the_likeliest_windows(variant: str, tmp_path: Path) -> None:
    require_states(make(variant, tmp_path / "model", **VARIANTS[variant]), prefix=[1], draws=3)


@pytest.mark.slow
@pytest.mark.parametrize(("prefix", "draws"), [([0], 4), ([], 1), ([7, 3], 2)])
def test_learned_positions_are_those_behind_prefix_and_window(
    make_random_model: Callable[..., Path], prefix: list[int], draws: int
) -> None:
    require_states(make_random_model(6, scale_attn_by_inverse_layer_idx=True), prefix, draws)


def test_equally_likely_windows_are_taken_by_their_number(tmp_path: Path) -> None:
    folder = make("llama", tmp_path / "model")

    def silence(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            if "o_proj" in name:
                tensor.zero_()

    edit_weights(folder, silence)  # so that a window's last token alone decides
    windows_WT = random_windows(40, 97)
    windows_WT[:, -1] = np.resize([5, 9], 40)
    found_VS = likeliest_windows(Checkpoint.open(folder), windows_WT, prefix=[1], draws=25, threads=1)
    even, odd = np.arange(0, 40, 2), np.arange(1, 40, 2)
    for found_S in found_VS:
        first, second = (even, odd) if found_S[0] == 0 else (odd, even)
        np.testing.assert_array_equal(found_S, [*first, *second[:5]])


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["llama-groups-of-3", "gemma-2", "neox"])
def test_bits_depend_neither_on_threads_nor_on_the_way_to_a_layer(variant: str, tmp_path: Path) -> None:
    # Wide and ragged enough that a product over other blocks would change its last bits.
    sizes = {"vocab_size": 2500, "hidden_size": 192, "intermediate_size": 320}
    checkpoint = Checkpoint.open(make(variant, tmp_path / "model", **sizes))
    windows_WT = random_windows(150, 2500)
    found = []
    for threads, way in ((1, (1, 2)), (5, (2,)), (2, (0, 2, 2))):
        chosen_VS = likeliest_windows(checkpoint, windows_WT, prefix=[1], draws=3, threads=threads)
        states = ContextStates(checkpoint, windows_WT, prefix=[1], draws=3, threads=threads)
        for layer in way:
            states.advance_to(layer)
        found.append((chosen_VS.tobytes(), states.values_VD.tobytes()))
    assert found[0] == found[1] == found[2]


def test_states_of_a_layer_are_not_changed_by_the_next(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(make("llama", tmp_path / "model"))
    states = ContextStates(checkpoint, random_windows(8, 97), draws=2, threads=1)
    handed_out = [states.advance_to(layer) for layer in range(3)]
    kept = [values_VD.copy() for values_VD in handed_out]
    states.advance_to(3)
    for now_VD, then_VD in zip(handed_out, kept, strict=True):
        np.testing.assert_array_equal(now_VD, then_VD)


def test_one_window_is_a_prefix(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(make("gemma-3", tmp_path / "model"))
    window_1T = random_windows(1, 97)
    context = ContextStates(checkpoint, window_1T, prefix=[4], draws=1, threads=1)
    prefix = TokenStates(checkpoint, PREFIX, prefix=[4, *window_1T[0].tolist()], threads=1)
    for layer in range(4):
        np.testing.assert_allclose(context.advance_to(layer), prefix.advance_to(layer), rtol=1e-5, atol=1e-5)


def test_states_of_some_tokens_are_rows_of_the_vocabulary(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(make("qwen2", tmp_path / "model"))
    whole, some = (
        ContextStates(checkpoint, random_windows(30, 97), draws=4, token_ids=ids, threads=1)
        for ids in (None, [7, 3, 90])
    )
    np.testing.assert_allclose(some.advance_to(2), whole.advance_to(2)[[7, 3, 90]], atol=1e-5)


def test_windows_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(make("llama", tmp_path / "model"))

    def refused(windows_WT: np.ndarray, match: str, prefix: tuple[int, ...] = (1,), draws: int = 1) -> None:
        for use in (ContextStates, likeliest_windows):
            with pytest.raises(ValueError, match=match):
                use(checkpoint, windows_WT, prefix=prefix, draws=draws, threads=1)

    refused(random_windows(3, 97, 63), "needs 65 positions, and the model reads 64")
    refused(random_windows(3, 97), "draws 4 are more than --windows 3", draws=4)
    refused(random_windows(3, 97), "token 97 is outside", prefix=(97,))
    refused(random_windows(3, 97) + 90, "is outside the vocabulary of 97")


@pytest.mark.real
def test_states_of_the_real_model_are_those_of_transformers() -> None:
    from transformers import AutoModelForCausalLM

    file, draws = real_model(), 4
    checkpoint = Checkpoint.open(file)
    windows_WT = calibration_windows(file, 49152, 160)
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, attn_implementation="eager"
    )
    model = model.double().eval()
    windows_WC = np.concatenate([np.full((160, 1), 1), windows_WT], axis=1)
    _, log_p_VW = chosen_by_numpy(model, windows_WC, draws)
    token_ids = np.sort(np.random.default_rng(1).choice(49152, 20, replace=False))
    found_VS = likeliest_windows(checkpoint, windows_WT, prefix=[1], draws=draws, token_ids=token_ids, threads=2)
    log_p_VW = log_p_VW[token_ids]
    expected_VS = np.argsort(-log_p_VW, axis=1, kind="stable")[:, :draws]
    # Float32 may take two windows for each other whose probabilities differ by less than a thousandth.
    of_found, of_expected = (np.take_along_axis(log_p_VW, chosen, axis=1) for chosen in (found_VS, expected_VS))
    np.testing.assert_allclose(of_found, of_expected, atol=1e-3)
    assert (found_VS == expected_VS).mean() > 0.9
    hidden = mean_hidden(model, windows_WC, found_VS, token_ids)
    states = ContextStates(checkpoint, windows_WT, prefix=[1], draws=draws, token_ids=token_ids.tolist(), threads=2)
    for layer in (1, 3, 12):
        found_VD, expected_VD = states.advance_to(layer), hidden[layer]
        error_V = np.abs(found_VD - expected_VD).max(axis=1) / np.abs(expected_VD).max(axis=1)
        assert error_V.max() < 1e-4, (layer, error_V)
