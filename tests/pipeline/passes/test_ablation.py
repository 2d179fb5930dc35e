"""Ablation: against plain Hugging Face forward hooks, for every kind of component and of replacement."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from qkatlas.pipeline.models.checkpoint import Checkpoint
from qkatlas.pipeline.models.forward import PROMPTS_PER_BATCH, Forward, for_batches
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.models.weights import ModelWeights
from qkatlas.pipeline.passes.ablation import Measured, Measurement, measure_ablated, measure_clean
from qkatlas.pipeline.passes.components import (
    CLEAN,
    EMBED,
    HEAD,
    MLP_RESIDUAL,
    Component,
    embeddings,
    of_layer,
    reached,
)
from qkatlas.pipeline.passes.kinds import KINDS
from qkatlas.pipeline.text.categories import Categories, read_categories
from qkatlas.pipeline.text.passages import Passages
from qkatlas.pipeline.text.prompts import CategoryPrompts
from qkatlas.pipeline.text.vocabulary import Vocabulary

SEED = 7
HEADS = tuple(Head(layer, head) for layer in range(3) for head in range(8))


def passages_of(folder: Path, count: int = 5, length: int = 9) -> Passages:
    words = [words for _, words in read_categories()]
    categories = Categories.fit(words, Vocabulary.open(folder, 1024))
    prompts = CategoryPrompts.draw(categories, bos=1023, count=count, length=length, seed=SEED)
    return Passages.of_prompts(prompts).with_partners(SEED)


def ours(
    folder: Path, passages: Passages, components: list[Component], kind: str, *, loss: bool = True, threads: int = 1
) -> Measured:
    """The passages in batches, with means over all of them."""
    weights = ModelWeights.read(Checkpoint.open(folder), str(folder))
    count, length = passages.tokens_PT.shape
    batches = [passages[start : start + PROMPTS_PER_BATCH] for start in range(0, count, PROMPTS_PER_BATCH)]
    measurement = Measurement(HEADS, loss)
    clean = [(Measured(np.empty(0), None), {})]
    if kind == "mean" or components == [CLEAN]:
        clean = for_batches(
            weights, batches, lambda model, batch: measure_clean(model, batch, measurement, range(3)), threads=threads
        )
    means = {
        component: (sum(sums[component] for _, sums in clean) / (count * length)).astype(np.float32)
        for component in clean[0][1]
    }

    def work(model: Forward, batch: Passages) -> Measured:
        return measure_ablated(model, batch, measurement, components, kind=kind, means=means)

    done = (
        [each for each, _ in clean] if components == [CLEAN] else for_batches(weights, batches, work, threads=threads)
    )
    losses = [each.losses_MP for each in done if each.losses_MP is not None]
    return Measured(
        np.concatenate([each.scores_MPZ for each in done], axis=1),
        np.concatenate(losses, axis=1) if losses else None,
    )


class HuggingFace:
    """The same by plain forward hooks on all passages at once."""

    def __init__(self, folder: Path, passages: Passages) -> None:
        self.model = GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").eval()
        self.passages = passages
        self.tokens = torch.from_numpy(passages.tokens_PT)
        order = [
            next(p for p in range(len(self.tokens)) if (passages.tokens_PT[p] == partner_T).all())
            for partner_T in passages.partners_PT
        ]
        self.partner = torch.tensor(order)

    def module(self, component: Component) -> torch.nn.Module:
        body = self.model.transformer
        if component.layer is None:
            return body.wte if component.kind == EMBED else body.wpe
        block = body.h[component.layer]
        return {"attn": block.attn, "head": block.attn.c_proj, "mlp": block.mlp, "mlp_residual": block}[component.kind]

    def replaced(self, output: torch.Tensor, kind: str) -> torch.Tensor:
        output = output.expand(len(self.tokens), -1, -1)  # Hugging Face embeds the positions once
        if kind == "resample":
            return output[self.partner]
        return (output.mean(dim=(0, 1)) if kind == "mean" else torch.zeros(())).expand_as(output)

    @contextmanager
    def ablated(self, component: Component, kind: str) -> Iterator[None]:
        with ExitStack() as stack:

            def hook(point: torch.nn.Module, act: Callable[..., Any], *, pre: bool = False) -> None:
                handle = point.register_forward_pre_hook(act) if pre else point.register_forward_hook(act)
                stack.callback(handle.remove)

            module = self.module(component)
            if component.kind == HEAD:
                width = self.model.config.n_embd // self.model.config.n_head
                own = slice(component.head * width, (component.head + 1) * width)

                def act(_: Any, inputs: Any) -> Any:
                    z = inputs[0].clone()
                    z[..., own] = self.replaced(z[..., own], kind)
                    return (z,)

                hook(module, act, pre=True)
            elif component.kind == MLP_RESIDUAL:
                kept: dict[str, torch.Tensor] = {}
                hook(module.mlp, lambda _m, _i, output: kept.__setitem__("mlp", output))

                def out(_m: Any, _i: Any, output: Any) -> Any:
                    middle = output - kept["mlp"]
                    return kept["mlp"] + (self.replaced(middle, kind) if kind == "resample" else 0)

                hook(module, out)
            elif component != CLEAN:

                def whole(_m: Any, _i: Any, output: Any) -> Any:
                    if isinstance(output, tuple):
                        return (self.replaced(output[0], kind), *output[1:])
                    return self.replaced(output, kind)

                hook(module, whole)
            yield

    def measure(self, component: Component, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Scores [P, Z] of the heads reached, by the formula, and summed losses [P]."""
        self_or_none = self.ablated(component, kind) if component != CLEAN else ExitStack()
        with torch.no_grad(), self_or_none:
            output = self.model(self.tokens, output_attentions=True)
        expected_PTT = torch.from_numpy(self.passages.prompts.expected_PTT())
        scores = [
            -(output.attentions[head.layer][:, head.index].double() * expected_PTT).sum(2)[:, 1:].log().mean(1)
            for head in reached(component, HEADS)
        ]
        logs = output.logits[:, :-1].log_softmax(2)
        losses_P = -logs.gather(2, self.tokens[:, 1:, None])[..., 0].sum(1)
        return torch.stack(scores, 1).numpy() if scores else np.empty((len(self.tokens), 0)), losses_P.numpy()


@pytest.fixture(scope="module")
def passages(worded_model: Path) -> Passages:
    return passages_of(worded_model)


@pytest.fixture(scope="module")
def reference(worded_model: Path, passages: Passages) -> HuggingFace:
    return HuggingFace(worded_model, passages)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ablations_equal_hugging_face_hooks(
    worded_model: Path, passages: Passages, reference: HuggingFace, kind: str
) -> None:
    architecture = Checkpoint.open(worded_model).architecture
    baseline = ours(worded_model, passages, [CLEAN], kind).scores_MPZ[0]
    layers = [of_layer(architecture, layer) for layer in range(3)]
    for group in (
        embeddings(architecture),
        *([each for each in layer if each.head in (None, 0, 5)] for layer in layers),
    ):
        measured = ours(worded_model, passages, group, kind)
        for component, scores_PZ, losses_P in zip(group, measured.scores_MPZ, measured.losses_MP, strict=True):
            expected_PZ, expected_P = reference.measure(component, kind)
            np.testing.assert_allclose(scores_PZ, expected_PZ, atol=1e-4, err_msg=component.name)
            np.testing.assert_allclose(losses_P, expected_P, rtol=1e-5, err_msg=component.name)
            # The comparison means something: all but another prompt's positions, which are the same, change scores.
            unchanged = kind == "resample" and component.kind == "pos_embed"
            if scores_PZ.size:
                moved = np.abs(scores_PZ - baseline[:, -scores_PZ.shape[1] :]).max()
                assert (moved < 1e-5) if unchanged else (moved > 1e-3), component.name


def test_the_model_as_it_is_equals_hugging_face(worded_model: Path, passages: Passages, reference: HuggingFace) -> None:
    measured = ours(worded_model, passages, [CLEAN], "zero")
    expected_PZ, expected_P = reference.measure(CLEAN, "zero")
    np.testing.assert_allclose(measured.scores_MPZ[0], expected_PZ, atol=1e-4)
    np.testing.assert_allclose(measured.losses_MP[0], expected_P, rtol=1e-5)


def test_stopping_early_and_threads_change_no_bit(worded_model: Path, passages: Passages) -> None:
    group = of_layer(Checkpoint.open(worded_model).architecture, 0)
    whole = ours(worded_model, passages, group, "mean")
    without_loss = ours(worded_model, passages, group, "mean", loss=False, threads=2)
    assert without_loss.losses_MP is None
    assert np.array_equal(whole.scores_MPZ, without_loss.scores_MPZ)
