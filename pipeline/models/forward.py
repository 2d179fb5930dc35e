"""The model's real forward pass, by TransformerBridge, on one thread at a time.

A product's last bits may depend on how many threads share it. Prompts are therefore run in fixed batches, each by one
thread with a bridge of its own; all bridges share one set of weights.

Shapes: P prompts of one batch, T positions, N heads of a layer, D model.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from qkatlas.pipeline.models.architecture import Architecture
from qkatlas.pipeline.models.layers import capped
from qkatlas.pipeline.models.module import BlockArguments, module_of
from qkatlas.pipeline.models.weights import ModelWeights

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

PROMPTS_PER_BATCH = 4
"""Prompts that run together; fixed, because the shape of a product may change its last bit."""

_TANH_GELU = ("gelu_new", "gelu_fast")
"""Activations that are gelu_pytorch_tanh under another name."""

Hook = Callable[[torch.Tensor], torch.Tensor | None]
"""Gets an activation; what it returns, if anything, takes its place."""

Batch = TypeVar("Batch")
Value = TypeVar("Value")


class Forward:
    """A model that can be run and hooked; not to be shared between threads.

    Args:
        weights: the model; its arrays are used where they lie on CPUs.
        device: `cpu` or `cuda`.

    Raises:
        ValueError: if transformers has no model of this architecture.
    """

    def __init__(self, weights: ModelWeights, device: str = "cpu") -> None:
        from transformer_lens.model_bridge.sources import build_bridge_from_module

        self.device = torch.device(device)
        self.architecture = weights.architecture
        module = module_of(weights, self.device)
        self._arguments = BlockArguments(module, self.architecture)
        self.bridge: TransformerBridge = build_bridge_from_module(
            module, type(module).__name__, hf_config=module.config
        )

    def attention_scores(
        self, tokens_PT: np.ndarray, layers: Sequence[int], visit: Callable[[int, torch.Tensor], None]
    ) -> None:
        """Run some prompts up to the last of some layers and hand out the pre-softmax scores of each.

        Args:
            tokens_PT: int64 [P, T].
            layers: the layers.
            visit: called with a layer and its scores [P, N, T, T], in order of the layers; entries after the query
                are the least float, not scores.
        """
        self.scores_from(self.run(tokens_PT, {}, stop_at_layer=0), 0, layers, visit)

    def scores_from(
        self,
        stream_PTD: torch.Tensor,
        layer: int,
        layers: Sequence[int],
        visit: Callable[[int, torch.Tensor], None],
    ) -> None:
        """Go on from a residual stream up to the scores of the last of some layers, and hand out those of each.

        Args:
            stream_PTD: float32 [P, T, D], what enters a layer.
            layer: that layer.
            layers: this layer or later ones, at least one.
            visit: as in `attention_scores`.
        """
        last = max(layers)

        def hook_of(visited: int) -> Hook:
            def act(scores_PNTT: torch.Tensor) -> None:
                visit(visited, scores_PNTT)
                if visited == last:
                    raise _NothingLeft

            return act

        with suppress(_NothingLeft):
            self.go_on(stream_PTD, layer, {scores_hook(visited): hook_of(visited) for visited in layers})

    def go_on(
        self,
        stream_PTD: torch.Tensor,
        layer: int,
        hooks: Mapping[str, Hook],
        *,
        stop_at_layer: int | None = None,
        gradients: bool = False,
    ) -> torch.Tensor:
        """Go on from a residual stream with hooks.

        Args:
            stream_PTD: float32 [P, T, D], what enters a layer.
            layer: that layer.
            hooks: by the name of TransformerBridge's hook point.
            stop_at_layer: the layer to stop in front of; None = run all.
            gradients: whether to keep what gradients of what hooks put in are made from.

        Returns:
            What leaves the last layer that was run, [P, T, D].
        """
        with torch.set_grad_enabled(gradients), self.bridge.hooks(fwd_hooks=_bridge_hooks(hooks)):
            for at, block in enumerate(self.bridge.blocks[layer:stop_at_layer], layer):
                # The bridge's own `start_at_layer` runs the layers below too.
                left = block(stream_PTD, **self._arguments.of(at, stream_PTD))
                stream_PTD = left[0] if isinstance(left, tuple) else left
        return stream_PTD

    def mlp(self, layer: int, stream_PTD: torch.Tensor) -> torch.Tensor:
        """What a layer's MLP adds to the residual stream in front of it, [P, T, D]."""
        block = self.bridge.blocks[layer]
        with torch.no_grad():
            added_PTD: torch.Tensor = block.mlp(block.ln2(stream_PTD))
            return block.ln2_post(added_PTD) if self.architecture.after_norms else added_PTD

    def output_weights(self, layer: int) -> torch.Tensor:
        """W_O of a layer's heads, [N, H, D]: what each head's mixed values become in the residual stream."""
        weight = self.bridge.blocks[layer].attn.o.original_component.weight
        if self.architecture.family != "gpt2":  # whose Conv1D holds [N * H, D], and a Linear [D, N * H]
            weight = weight.T
        weight_NHD: torch.Tensor = weight.reshape(self.architecture.n_heads, self.architecture.d_head, -1)
        return weight_NHD

    def normalised_output(self, layer: int, mixed_PTNH: torch.Tensor) -> torch.Tensor:
        """What the mixed values of all heads add to the residual stream where the model normalises it, [P, T, D]."""
        block = self.bridge.blocks[layer]
        with torch.no_grad():
            added_PTD: torch.Tensor = block.ln1_post(block.attn.o(mixed_PTNH.flatten(2)))
        return added_PTD

    def attention_hook(self, layer: int) -> str:
        """Name of the hook point of what a layer's attention adds to the residual stream."""
        return f"blocks.{layer}.{'ln1_post.hook_out' if self.architecture.after_norms else 'hook_attn_out'}"

    def mlp_hook(self, layer: int) -> str:
        """Name of the hook point of what a layer's MLP adds to the residual stream."""
        return f"blocks.{layer}.{'ln2_post.hook_out' if self.architecture.after_norms else 'hook_mlp_out'}"

    def logits(self, stream_RD: torch.Tensor, *, gradients: bool = False) -> torch.Tensor:
        """Logits [R, V] of what leaves the last layer; `gradients` as in `go_on`."""
        with torch.set_grad_enabled(gradients):
            logits_RV: torch.Tensor = self.bridge.unembed(self.bridge.ln_final(stream_RD))
            return capped(logits_RV, self.architecture.logit_cap)

    def run(
        self,
        tokens_PT: np.ndarray,
        hooks: Mapping[str, Hook],
        *,
        stop_at_layer: int | None = None,
    ) -> torch.Tensor:
        """Run some prompts with hooks.

        Args:
            tokens_PT: int64 [P, T].
            hooks: by the name of TransformerBridge's hook point.
            stop_at_layer: layers to run; None, or the number of layers = all, and the unembedding.

        Returns:
            Logits [P, T, V], or the residual stream [P, T, D] after the last layer that ran.
        """
        with torch.no_grad():
            output: torch.Tensor = self.bridge.run_with_hooks(
                torch.from_numpy(tokens_PT).to(self.device),
                fwd_hooks=_bridge_hooks(hooks),
                stop_at_layer=stop_at_layer,
            )
        return output


def scores_hook(layer: int) -> str:
    """Name of the hook point of a layer's pre-softmax attention scores."""
    return f"blocks.{layer}.attn.hook_attn_scores"


def _bridge_hooks(hooks: Mapping[str, Hook]) -> list[tuple[str | Callable[..., Any], Callable[..., Any]]]:
    return [(name, lambda activation, hook, act=act: act(activation)) for name, act in hooks.items()]


class _NothingLeft(Exception):  # noqa: N818 - no error: it ends a pass from inside a hook
    """All that a pass was asked for has been handed out."""


def for_batches(
    weights: ModelWeights,
    batches: Sequence[Batch],
    work: Callable[[Forward, Batch], Value],
    *,
    threads: int,
    device: str = "cpu",
) -> list[Value]:
    """Do some work on every batch, each with a model of one thread's own.

    Args:
        weights: the model.
        batches: what to work on.
        work: called with a model and a batch.
        threads: threads to use on CPUs; no result depends on it.
        device: `cpu` or `cuda`.

    Returns:
        The results, in order of the batches.
    """
    _load_libraries()
    own = threading.local()
    taken: list[Forward] = []

    def begin() -> None:
        torch.set_num_threads(1)  # torch keeps this number per calling thread
        own.model = _take(weights, device)
        taken.append(own.model)

    try:
        with ThreadPoolExecutor(1 if device == "cuda" else threads, initializer=begin) as pool:
            return list(pool.map(lambda batch: work(own.model, batch), batches))
    finally:
        with _lock:
            _idle.setdefault((weights.key, weights.architecture, device), []).extend(taken)


def prompt_batches(count: int) -> list[slice]:
    """The fixed batches that some prompts are run in, in order."""
    return [slice(start, min(start + PROMPTS_PER_BATCH, count)) for start in range(0, count, PROMPTS_PER_BATCH)]


def forget_models() -> None:
    """Give back the memory of the models that wait for the next call of `for_batches`."""
    with _lock:
        _idle.clear()


_idle: dict[tuple[str, Architecture, str], list[Forward]] = {}
"""Models that this process built for the newest weights and that no thread holds."""

_lock = threading.Lock()


def _take(weights: ModelWeights, device: str) -> Forward:
    wanted = weights.key, weights.architecture, device
    with _lock:
        for key in [key for key in _idle if key != wanted]:
            del _idle[key]
        idle = _idle.get(wanted, [])
        return idle.pop() if idle else Forward(weights, device)


def _load_libraries() -> None:
    # Loaded here, for they take seconds that jobs without a forward pass need not wait for.
    import transformer_lens.model_bridge.sources  # noqa: F401
    import transformers  # noqa: F401
