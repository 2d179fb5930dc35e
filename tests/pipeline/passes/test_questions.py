"""Answers with heads ablated, and attribution: against plain hooks on transformers, and against the model's logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.checkpoints import edit_weights, reference
from support.families import make

from qkatlas.jobs.inputs.resolve import write_planted
from qkatlas.pipeline.models.checkpoint import Checkpoint
from qkatlas.pipeline.models.forward import Forward
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.models.weights import ModelWeights
from qkatlas.pipeline.passes.attribution import Answers, measure_answers
from qkatlas.pipeline.passes.kinds import KINDS
from qkatlas.pipeline.passes.questions import Questions, measure_without
from qkatlas.pipeline.passes.readout import Readout
from qkatlas.pipeline.planted.checkpoint import PlantedDesign
from qkatlas.pipeline.tasks.prompts import TaskPrompts
from qkatlas.pipeline.tasks.synthetic import after_prefix, block

pytestmark = pytest.mark.slow

FAMILIES = ("gpt2", "llama-groups-of-3", "gemma-2", "gemma-3", "neox", "neox-sequential", "qwen3-biases", "mistral")
EVERY = [pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES]
PARTNERS = np.array([1, 2, 0])


def folder_of(family: str, folder: Path) -> Path:
    if family == "gpt2":
        write_planted(PlantedDesign(size="tiny"), folder)
        return folder
    return make(family, folder)


def weights_of(folder: Path) -> ModelWeights:
    return ModelWeights.read(Checkpoint.open(folder), "test")


def in_float64(weights: ModelWeights) -> ModelWeights:
    return replace(weights, tensors={name: tensor.astype(np.float64) for name, tensor in weights.tensors.items()})


def asked(task: str = "block", lengths: bool = False) -> tuple[TaskPrompts, Questions]:
    rng, ordinary = np.random.default_rng(4), np.arange(3, 80)
    prompts = (
        block(ordinary, bos=1, count=3, rng=rng)
        if task == "block"
        else after_prefix(task, ordinary, bos=1, count=3, rng=rng)
    )
    if lengths:  # of several lengths: a prompt ends earlier, and BOS stands behind it
        tokens, places = prompts.tokens_PT.copy(), prompts.places_PA.copy()
        tokens[0, -3:], places[0] = 1, places[0] - 3
        prompts = replace(prompts, tokens_PT=tokens, places_PA=places)
    return prompts, Questions.of(prompts, PARTNERS, slice(0, 3))


class Transformers:
    """A model whose heads are replaced by pre-hooks on the projection that mixes them."""

    def __init__(self, folder: Path) -> None:
        self.model, self.architecture = reference(folder), Checkpoint.open(folder).architecture

    def _mixing(self, layer: int) -> torch.nn.Module:
        module: Any = self.model
        return {
            "gpt2": lambda: module.transformer.h[layer].attn.c_proj,
            "neox": lambda: module.gpt_neox.layers[layer].attention.dense,
            "llama": lambda: module.model.layers[layer].self_attn.o_proj,
        }[self.architecture.family]()

    @contextmanager
    def without(self, head: Head, kind: str, questions: Questions) -> Iterator[None]:
        width = self.architecture.d_head
        own = slice(head.index * width, (head.index + 1) * width)
        read = torch.from_numpy(questions.read_PT)
        half = len(read) // 2
        partners = torch.from_numpy(np.concatenate([PARTNERS, half + PARTNERS]))

        def replaced(module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            mixed = given[0].clone()
            other = {
                "mean": lambda: mixed[read][:, own].mean(dim=0),
                "zero": lambda: torch.zeros(width, dtype=mixed.dtype),
                "resample": lambda: mixed[partners][:, :, own].clone(),
            }[kind]()
            mixed[:, :, own] = other
            return (mixed, *given[1:])

        handle = self._mixing(head.layer).register_forward_pre_hook(replaced)
        try:
            yield
        finally:
            handle.remove()

    def losses(self, questions: Questions) -> np.ndarray:
        """Mean over questions of -ln p of each answer, float64 [P, W]."""
        with torch.no_grad():
            logp = self.model(torch.from_numpy(questions.tokens_PT)).logits.log_softmax(dim=-1)
        row = torch.arange(len(logp))[:, None]
        at = logp[row, torch.from_numpy(questions.places_PA)]
        found: np.ndarray = -at.gather(2, torch.from_numpy(questions.answers_PAW)).mean(dim=1).numpy()
        return found


def measured(weights: ModelWeights, questions: Questions, source: int | None = None) -> Answers:
    return measure_answers(Forward(weights), questions, Readout.of(weights), source)


def means_of(answers: Answers) -> dict[int, np.ndarray]:
    return {layer: (sums / answers.count).reshape(-1).astype(np.float32) for layer, sums in enumerate(answers.sums_LNH)}


@pytest.mark.parametrize("family", EVERY)
def test_effects_are_those_of_hooks_on_transformers(family: str, tmp_path: Path) -> None:
    folder = folder_of(family, tmp_path / "model")
    weights, plain = weights_of(folder), Transformers(folder)
    _, questions = asked()
    clean = plain.losses(questions)
    answers = measured(weights, questions)
    np.testing.assert_allclose(answers.losses_PW, clean, atol=1e-5)
    a = weights.architecture
    heads = [Head(layer, head) for layer in range(a.n_layers) for head in range(0, a.n_heads, 3)]
    largest = 0.0
    for kind in KINDS:
        losses = measure_without(
            Forward(weights), questions, heads, answers.losses_PW, kind=kind, means=means_of(answers)
        )
        for head, of_head in zip(heads, losses, strict=True):
            with plain.without(head, kind, questions):
                effect = plain.losses(questions) - clean
            np.testing.assert_allclose(of_head - answers.losses_PW, effect, atol=1e-5, err_msg=f"{kind} {head}")
            largest = max(largest, float(np.abs(effect).max()))
    assert largest > 1e-3


def test_prompts_of_several_lengths_read_nothing_behind_their_question(tmp_path: Path) -> None:
    folder = folder_of("gpt2", tmp_path / "model")
    weights, plain = weights_of(folder), Transformers(folder)
    _, questions = asked("induction-2", lengths=True)
    answers = measured(weights, questions)
    heads = [Head(0, 1), Head(1, 3)]
    losses = measure_without(
        Forward(weights), questions, heads, answers.losses_PW, kind="mean", means=means_of(answers)
    )
    clean = plain.losses(questions)
    for head, of_head in zip(heads, losses, strict=True):
        with plain.without(head, "mean", questions):
            np.testing.assert_allclose(of_head - answers.losses_PW, plain.losses(questions) - clean, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_that_writes_nothing_has_no_effect_at_all(kind: str, tmp_path: Path) -> None:
    folder = folder_of("gpt2", tmp_path / "model")

    def silence(tensors: dict[str, torch.Tensor]) -> None:
        tensors["transformer.h.1.attn.c_proj.weight"][3 * 16 : 4 * 16] = 0

    edit_weights(folder, silence)
    weights = weights_of(folder)
    _, questions = asked()
    answers = measured(weights, questions)
    heads = [Head(1, 2), Head(1, 3)]
    losses = measure_without(Forward(weights), questions, heads, answers.losses_PW, kind=kind, means=means_of(answers))
    assert (losses[0] != answers.losses_PW).any()
    np.testing.assert_array_equal(losses[1], answers.losses_PW)
    assert np.abs(answers.dla_PLNC[:, 1, 3]).max() == 0


@pytest.fixture
def exact_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' root mean square norms in the precision of what they are given, not in float32."""
    from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
    from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.mistral.modeling_mistral import MistralRMSNorm
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        eps = self.variance_epsilon if hasattr(self, "variance_epsilon") else self.eps
        gain = 1 + self.weight if type(self).__name__.startswith("Gemma") else self.weight
        normed: torch.Tensor = x / torch.sqrt(x.square().mean(dim=-1, keepdim=True) + eps) * gain
        return normed

    for norm in (LlamaRMSNorm, Qwen3RMSNorm, MistralRMSNorm, Gemma2RMSNorm, Gemma3RMSNorm):
        monkeypatch.setattr(norm, "forward", forward)


@pytest.mark.usefixtures("exact_norms")
@pytest.mark.parametrize("family", EVERY)
def test_attributions_sum_to_the_logits_of_the_model(family: str, tmp_path: Path) -> None:
    weights = in_float64(weights_of(folder_of(family, tmp_path / "model")))
    _, questions = asked()
    model = Forward(weights)
    answers = measured(weights, questions)
    total = answers.dla_PLNC.sum(axis=(1, 2)) + sum(answers.parts_PC.values())
    # The bridge's own final norm and unembedding, of its own pass; a soft cap comes after.
    stream = model.go_on(model.run(questions.tokens_PT, {}, stop_at_layer=0), 0, {})
    with torch.no_grad():
        logits = model.bridge.unembed(model.bridge.ln_final(stream))
    row = torch.arange(len(logits))[:, None]
    at = logits[row, torch.from_numpy(questions.places_PA)]
    own = at.gather(2, torch.from_numpy(questions.answers_PAW[:, :, :1]))[..., 0]
    expected = torch.stack([own.mean(dim=1), (own - at.mean(dim=2)).mean(dim=1)], dim=1).numpy()
    np.testing.assert_allclose(total, expected, atol=1e-10)
    np.testing.assert_allclose(answers.logits_PC, expected, atol=1e-10)
    prompts = len(total) // 2
    sources = answers.sources_LNO.sum(axis=2) / questions.places_PA.shape[1]
    np.testing.assert_allclose(sources, answers.dla_PLNC[:prompts, :, :, 1].sum(axis=0), atol=1e-10)
    np.testing.assert_allclose(answers.attention_LNO.sum(axis=2), prompts * questions.places_PA.shape[1], atol=1e-5)


def test_attributions_of_gpt2_sum_to_the_logits_of_transformers(make_random_model: Callable[..., Path]) -> None:
    folder = make_random_model()  # whose heads write along the ones vector too, which the planted ones do not
    prompts, questions = asked("induction-3")
    answers = measured(in_float64(weights_of(folder)), questions, prompts.source)
    with torch.no_grad():
        out = reference(folder)(torch.from_numpy(questions.tokens_PT), output_attentions=True)
    last = out.logits[:, -1]
    own = last.gather(1, torch.from_numpy(questions.answers_PAW[:, 0, :1]))[:, 0]
    total = answers.dla_PLNC.sum(axis=(1, 2)) + sum(answers.parts_PC.values())
    np.testing.assert_allclose(total, torch.stack([own, own - last.mean(dim=1)], dim=1), atol=1e-10)
    assert answers.source_PLN is not None
    attention = torch.stack([of_layer[:, :, -1, prompts.source] for of_layer in out.attentions], dim=1)
    np.testing.assert_allclose(answers.source_PLN, attention, atol=1e-10)


@pytest.mark.parametrize("family", EVERY[:1] + EVERY[4:5])
def test_the_linear_estimate_is_the_slope_of_the_effect(family: str, tmp_path: Path) -> None:
    weights = in_float64(weights_of(folder_of(family, tmp_path / "model")))
    _, questions = asked("induction-2")
    answers = measured(weights, questions)
    model = Forward(weights)
    share = 1e-5
    for layer, head in ((0, 1), (1, 5), (2, 0)):

        def shrink(mixed: torch.Tensor, head: int = head) -> torch.Tensor:
            by_head = mixed.reshape(*mixed.shape[:2], weights.architecture.n_heads, -1).clone()
            by_head[:, :, head] *= 1 - share
            return by_head.reshape(mixed.shape)

        start = model.run(questions.tokens_PT, {}, stop_at_layer=0)
        end = model.go_on(start, 0, {f"blocks.{layer}.attn.hook_z": shrink})
        logp = model.logits(end[:, -1]).log_softmax(dim=1)
        loss = -logp.gather(1, torch.from_numpy(questions.answers_PAW[:, 0]))[:, 0].numpy()
        slope = (loss - answers.losses_PW[:, 0]) / share
        np.testing.assert_allclose(-answers.product_PLN[:, layer, head], slope, rtol=1e-3, atol=1e-5)
