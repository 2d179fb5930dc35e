"""Ablation in models with rotary positions: against plain hooks on transformers in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.checkpoints import reference
from support.families import make

from qkatlas.pipeline.models.checkpoint import Checkpoint
from qkatlas.pipeline.models.forward import Forward
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.models.weights import ModelWeights
from qkatlas.pipeline.passes.ablation import Measurement, measure_ablated, measure_clean
from qkatlas.pipeline.passes.components import CLEAN, HEAD, MLP_RESIDUAL, Component, embeddings, of_layer, reached
from qkatlas.pipeline.passes.kinds import KINDS
from qkatlas.pipeline.text.passages import Passages
from qkatlas.pipeline.text.prompts import CategoryPrompts

PARTNER = (1, 2, 0)


def drawn_passages() -> Passages:
    rng = np.random.default_rng(5)
    tokens_PT, categories_PT = rng.integers(3, 80, (3, 12)), rng.integers(0, 3, (3, 12))
    tokens_PT[:, 0] = 1
    passages = Passages.of_prompts(CategoryPrompts(tokens_PT, categories_PT))
    return Passages(passages.tokens_PT, passages.predicted_PT, passages.prompts, tokens_PT[list(PARTNER)])


class Transformers:
    """A model whose parts are replaced by hooks."""

    def __init__(self, folder: Path, passages: Passages) -> None:
        self.model = reference(folder)
        self.architecture = Checkpoint.open(folder).architecture
        self.tokens, self.passages = torch.from_numpy(passages.tokens_PT), passages

    def _parts(self, component: Component) -> tuple[torch.nn.Module, torch.nn.Module, torch.nn.Module]:
        """The projection that mixes a layer's heads, what its attention adds last, and what its MLP adds last."""
        body = self.model.gpt_neox if self.architecture.family == "neox" else self.model.model
        block = body.layers[component.layer]
        attention = block.attention if self.architecture.family == "neox" else block.self_attn
        mixing = attention.dense if self.architecture.family == "neox" else attention.o_proj
        if self.architecture.after_norms:
            return mixing, block.post_attention_layernorm, block.post_feedforward_layernorm
        return mixing, mixing, block.mlp

    @contextmanager
    def ablated(self, component: Component, kind: str) -> Iterator[None]:
        def other(output: torch.Tensor) -> torch.Tensor:
            if kind == "resample":
                return output[list(PARTNER)]
            return (output.mean(dim=(0, 1)) if kind == "mean" else torch.zeros_like(output)).expand_as(output)

        with ExitStack() as stack:

            def put(part: torch.nn.Module, act: Callable[..., Any]) -> None:
                stack.callback(part.register_forward_hook(lambda _m, _i, output: act(output)).remove)

            if component.layer is None:
                put(self.model.get_input_embeddings(), other)
                yield
                return
            mixing, attention, mlp = self._parts(component)
            if component.kind == HEAD:
                own = slice(component.head * self.architecture.d_head, (component.head + 1) * self.architecture.d_head)

                def act(_: Any, inputs: Any) -> Any:
                    mixed = inputs[0].clone()
                    mixed[..., own] = other(mixed[..., own])
                    return (mixed,)

                stack.callback(mixing.register_forward_pre_hook(act).remove)
            elif component.kind == MLP_RESIDUAL:
                body = self.model.gpt_neox if self.architecture.family == "neox" else self.model.model
                kept: list[torch.Tensor] = []
                put(mlp, kept.append)

                def out(output: Any) -> Any:
                    whole = output[0] if isinstance(output, tuple) else output
                    left = kept[-1] + (other(whole - kept[-1]) if kind == "resample" else 0)
                    return (left, *output[1:]) if isinstance(output, tuple) else left

                put(body.layers[component.layer], out)
            else:
                put(attention if component.kind == "attn" else mlp, other)
            yield

    def measure(self, component: Component, kind: str, heads: list[Head]) -> tuple[np.ndarray, np.ndarray]:
        """Scores [P, Z] by the formula, and summed losses [P]."""
        with torch.no_grad(), self.ablated(component, kind) if component != CLEAN else ExitStack():
            output = self.model(self.tokens, output_attentions=True)
        expected_PTT = torch.from_numpy(self.passages.prompts.expected_PTT())
        scores = [
            -(output.attentions[head.layer][:, head.index].double() * expected_PTT).sum(2)[:, 1:].log().mean(1)
            for head in heads
        ]
        logs = output.logits[:, :-1].log_softmax(2)
        losses_P = -logs.gather(2, self.tokens[:, 1:, None])[..., 0].sum(1)
        return torch.stack(scores, 1).numpy() if scores else np.empty((len(self.tokens), 0)), losses_P.numpy()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "variant",
    ["llama-groups-of-3", "llama-wide-heads", "qwen2", "gemma", "gemma-2", "gemma-3", "neox", "neox-sequential"],
)
def test_ablations_equal_hooks_on_transformers(tmp_path: Path, variant: str, kind: str) -> None:
    # A shorter window would leave expected keys without any attention, whose log has no bound.
    more = {"sliding_window": 64} if variant in ("gemma-2", "gemma-3") else {}
    folder, passages = make(variant, tmp_path, **more), drawn_passages()
    theirs, model = Transformers(folder, passages), Forward(ModelWeights.read(Checkpoint.open(folder), variant + kind))
    a = model.architecture
    heads = [Head(layer, head) for layer in range(a.n_layers) for head in range(a.n_heads)]
    measurement = Measurement(tuple(heads), True)
    clean, summed = measure_clean(model, passages, measurement, range(a.n_layers))
    expected_PZ, expected_P = theirs.measure(CLEAN, kind, heads)
    np.testing.assert_allclose(clean.scores_MPZ[0], expected_PZ, atol=1e-4)
    np.testing.assert_allclose(clean.losses_MP[0], expected_P, rtol=1e-5)
    means = {component: (sums / passages.tokens_PT.size).astype(np.float32) for component, sums in summed.items()}
    names = {component.name for group in (embeddings(a), of_layer(a, 1)) for component in group}
    assert "pos_embed" not in names
    assert ("mlp_1_residual" in names) != a.parallel
    for group in (embeddings(a), *(of_layer(a, layer) for layer in range(a.n_layers))):
        group = [component for component in group if component.head in (None, 0, a.n_heads - 1)]
        found = measure_ablated(model, passages, measurement, group, kind=kind, means=means)
        for component, scores_PZ, losses_P in zip(group, found.scores_MPZ, found.losses_MP, strict=True):
            expected_PZ, expected_P = theirs.measure(component, kind, reached(component, heads))
            np.testing.assert_allclose(scores_PZ, expected_PZ, atol=2e-4, err_msg=component.name)
            np.testing.assert_allclose(losses_P, expected_P, rtol=1e-5, err_msg=component.name)
            assert np.abs(losses_P - clean.losses_MP[0]).max() > 1e-3, component.name  # the comparison means something
