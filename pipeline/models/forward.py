"""The model's real forward pass, by TransformerBridge, on one thread at a time.

A product's last bits may depend on how many threads share it. Prompts are therefore run in fixed batches, each by one
thread with a bridge of its own; all bridges share one set of weights.

Shapes: P prompts of one batch, T positions, N heads of a layer, D model.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from qkatlas.pipeline.models.architecture import Architecture
from qkatlas.pipeline.models.family import UNEMBEDDING
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
        ValueError: if the model is of a family whose pass is not built.
    """

    def __init__(self, weights: ModelWeights, device: str = "cpu") -> None:
        if weights.architecture.family != "gpt2":
            raise ValueError(
                f"the real forward pass of the family {weights.architecture.family} is not run yet; use a GPT-2 "
                "checkpoint, or --states mlp or bos"
            )
        self.device = torch.device(device)
        self.architecture = weights.architecture
        self.bridge = _bridge(weights, self.device)

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
        self, stream_PTD: torch.Tensor, layer: int, hooks: Mapping[str, Hook], *, stop_at_layer: int | None = None
    ) -> torch.Tensor:
        """Go on from a residual stream with hooks.

        Args:
            stream_PTD: float32 [P, T, D], what enters a layer.
            layer: that layer.
            hooks: by the name of TransformerBridge's hook point.
            stop_at_layer: the layer to stop in front of; None = run all.

        Returns:
            What leaves the last layer that was run, [P, T, D].
        """
        with torch.no_grad(), self.bridge.hooks(fwd_hooks=_bridge_hooks(hooks)):
            for block in self.bridge.blocks[layer:stop_at_layer]:
                left = block(stream_PTD)  # the bridge's own `start_at_layer` runs the layers below too
                stream_PTD = left[0] if isinstance(left, tuple) else left
        return stream_PTD

    def mlp(self, layer: int, stream_PTD: torch.Tensor) -> torch.Tensor:
        """What a layer's MLP adds to the residual stream in front of it, [P, T, D]."""
        block = self.bridge.blocks[layer]
        with torch.no_grad():
            added_PTD: torch.Tensor = block.mlp(block.ln2(stream_PTD))
        return added_PTD

    def output_weights(self, layer: int) -> torch.Tensor:
        """W_O of a layer's heads, [N, H, D]: what each head's mixed values become in the residual stream."""
        weight = self.bridge.blocks[layer].attn.o.original_component.weight  # a Conv1D's, [N * H, D]
        weight_NHD: torch.Tensor = weight.reshape(self.architecture.n_heads, self.architecture.d_head, -1)
        return weight_NHD

    def logits(self, stream_RD: torch.Tensor) -> torch.Tensor:
        """Logits [R, V] of what leaves the last layer."""
        with torch.no_grad():
            logits_RV: torch.Tensor = self.bridge.unembed(self.bridge.ln_final(stream_RD))
        return logits_RV

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


def _bridge(weights: ModelWeights, device: torch.device) -> TransformerBridge:
    """TransformerBridge over a Hugging Face GPT-2 whose parameters are the given arrays."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module
    from transformers import GPT2Config, GPT2LMHeadModel

    a = weights.architecture
    config = GPT2Config(
        vocab_size=a.vocab_size,
        n_positions=a.n_ctx,
        n_embd=a.d_model,
        n_layer=a.n_layers,
        n_head=a.n_heads,
        n_inner=a.d_mlp,
        # The same function in one fused pass, a fifth of the time of a layer's MLP less.
        activation_function="gelu_pytorch_tanh" if a.activation in _TANH_GELU else a.activation,
        layer_norm_epsilon=a.norm.eps,
        scale_attn_weights=a.score_width is not None,
        scale_attn_by_inverse_layer_idx=a.scale_by_layer,
        tie_word_embeddings=a.tied,
    )
    config._attn_implementation = "eager"  # the others compute no scores that could be hooked
    with torch.device("meta"):  # no memory, no initialisation
        model: Any = GPT2LMHeadModel(config)
    with warnings.catch_warnings():
        # Arrays that other processes share are read-only, and nothing here writes to them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        state = {
            name if name == UNEMBEDDING else f"transformer.{name}": torch.from_numpy(array)
            for name, array in weights.tensors.items()
        }
    if a.score_width is None:
        # TransformerBridge divides by sqrt(H) all the same; queries as much longer make up for it.
        for layer in range(a.n_layers):
            for kind in ("weight", "bias"):
                longer = state[f"transformer.h.{layer}.attn.c_attn.{kind}"].clone()
                longer[..., : a.d_model] *= math.sqrt(a.d_head)
                state[f"transformer.h.{layer}.attn.c_attn.{kind}"] = longer
    if UNEMBEDDING not in state:
        # What has no unembedding has no logits; a number that were taken for one would show.
        none_VD = torch.full((1, 1), torch.nan).expand(a.vocab_size, a.d_model)
        state[UNEMBEDDING] = state["transformer.wte.weight"] if a.tied else none_VD
    model.load_state_dict(state, assign=True)
    model.to(device).eval().requires_grad_(False)
    bridge: TransformerBridge = build_bridge_from_module(model, "GPT2LMHeadModel", hf_config=model.config)
    return bridge
