"""Token states: the residual stream that enters a layer's attention, for each vocabulary token on its own.

Every product here is taken over fixed blocks of rows, each on one thread. The bits of a state therefore depend on
the weights and the processor's arithmetic, and not on how many threads or workers a run was given.

Shapes: V tokens, D model, R rows of one block, L layers, P prompts, T positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float32

from qkatlas.pipeline.circuit.kinds import EMBEDDING, PREFIX, STATES
from qkatlas.pipeline.models.architecture import Architecture, Norm
from qkatlas.pipeline.models.blocks import for_blocks
from qkatlas.pipeline.models.families import family_of
from qkatlas.pipeline.models.forward import Forward, Hook, for_batches, prompt_batches
from qkatlas.pipeline.models.gpt2 import POSITIONS
from qkatlas.pipeline.models.layers import Attention, Part, mlp, standardised
from qkatlas.pipeline.models.weights import ModelWeights, Weights
from qkatlas.pipeline.text import streams
from qkatlas.pipeline.text.prompts import random_tokens

REFERENCE_PROMPTS, REFERENCE_LENGTH = 32, 64
"""The fixed set of prompts behind the states `mean`; shorter ones where the model or its vocabulary is smaller."""


class States(Protocol):
    """Token states that are taken from layer to layer.

    Attributes:
        layer: the layer whose attention reads the states.
        values_VD: float32 [V, D], the states; a new array for every layer.
    """

    layer: int
    values_VD: Float32[np.ndarray, "V D"]

    def advance_to(self, layer: int) -> Float32[np.ndarray, "V D"]:
        """Go on to a layer, this one or a later one, and return its states."""
        ...


class TokenStates:
    """The states of some tokens, taken from layer to layer.

    - `mlp`: X_0 = W_E and X_{l+1} = X_l + MLP_l(LN2_l(X_l)): no position, no attention, so that X_1 is the post's
      E = W_E + MLP_0(LN(W_E)).
    - `mean`: the same with the mean of W_pos in X_0, and in front of each MLP the mean output of the layer's attention
      over the reference prompts.
    - `embedding`: X_0 in front of every layer, the direct path from the token.
    - `prefix`: the exact forward pass on some tokens and then the token, read at the token; `bos` is that of BOS alone.

    X_0 is the embedding as the model scales it; where attention and MLP read the same stream, so they do here.

    Attributes:
        layer: the layer whose attention reads the states.
        values_VD: float32 [V, D], the states; a new array for every layer.

    Args:
        weights: the model.
        kind: one of STATES, PREFIX or EMBEDDING.
        token_ids: the tokens; None = the whole vocabulary, in its order.
        attention_means_LD: for `mean`: `attention_means` of all layers that will be passed.
        prefix: for `prefix`: its tokens.
        threads: threads to use; no state depends on it.

    Raises:
        ValueError: if the kind is `bos` and the model has no BOS, or the prefix leaves no position for a token.

    Source:
        "The Self-Hating Attention Head" (2025), part 1, generalised to any layer.
    """

    def __init__(
        self,
        weights: Weights,
        kind: str,
        *,
        token_ids: Sequence[int] | None = None,
        attention_means_LD: Float32[np.ndarray, "L D"] | None = None,
        prefix: Sequence[int] = (),
        threads: int,
    ) -> None:
        assert kind in (*STATES, PREFIX, EMBEDDING), kind
        a = weights.architecture
        self.layer = 0
        self._weights = weights
        self._kind = kind
        self._means_LD = attention_means_LD
        self._threads = threads
        if kind == "bos":
            prefix = (a.require_bos(),)
        self._prefix_CD: Float32[np.ndarray, "C D"] | None = None
        if prefix:
            require_room(prefix, a, kind)
            self._prefix_CD = embedded(weights, prefix, slice(len(prefix)))
        own_VD = embedded(weights, token_ids, len(prefix) if prefix else None)
        if kind == "mean" and a.rotary is None:
            own_VD = own_VD + weights.tensor(POSITIONS).mean(axis=0, dtype=np.float64).astype(np.float32)
        self.values_VD: Float32[np.ndarray, "V D"] = own_VD

    def advance_to(self, layer: int) -> Float32[np.ndarray, "V D"]:
        """Go on to a layer, this one or a later one, and return its states."""
        while self.layer < layer:
            if self._kind == EMBEDDING:
                self.layer = layer
            else:
                self._pass_layer()
        return self.values_VD

    def _pass_layer(self) -> None:
        add_mlp = mlp(self._weights, self.layer)
        parallel = self._weights.architecture.parallel
        prefix = None if self._prefix_CD is None else _Prefix(self._weights, self.layer, self._prefix_CD)
        values_VD = self.values_VD.copy()  # workers may still read the old ones

        def pass_rows(rows: slice) -> None:
            x_RD = torch.from_numpy(values_VD[rows])
            added_RD = add_mlp(x_RD) if parallel else None
            if self._kind == "mean":
                assert self._means_LD is not None, "the states `mean` stand on the means of the attention"
                x_RD += torch.from_numpy(self._means_LD[self.layer])
            if prefix is not None:
                x_RD += prefix.attention.behind(x_RD, prefix.context)
            x_RD += add_mlp(x_RD) if added_RD is None else added_RD

        for_blocks(len(values_VD), pass_rows, self._threads)
        if prefix is not None:
            self._prefix_CD = prefix.after(add_mlp, parallel)
        self.values_VD = values_VD
        self.layer += 1


def embedded(
    weights: Weights, token_ids: Sequence[int] | npt.NDArray[np.int64] | None, positions: int | slice | None
) -> npt.NDArray[np.float32]:
    """What enters layer 0 at some tokens, as the model scales it.

    Args:
        weights: the model.
        token_ids: the tokens, of any shape; None = the whole vocabulary, in its order.
        positions: where they stand, one for all or one for each of the last axis; None = nowhere. Models that turn
            queries and keys add none.

    Returns:
        float32 [..., D]; not to be changed where nothing was scaled, picked or added.
    """
    a = weights.architecture
    own_VD = weights.tensor(family_of(a).embedding)
    if token_ids is not None:
        own_VD = own_VD[np.asarray(token_ids, np.int64)]
    if a.embed_scale != 1:
        own_VD = own_VD * np.float32(a.embed_scale)
    return own_VD if positions is None or a.rotary is not None else own_VD + weights.tensor(POSITIONS)[positions]


def require_room(prefix: Sequence[int], architecture: Architecture, kind: str) -> None:
    """Check that a prefix is of the vocabulary and leaves a position for a token.

    Args:
        prefix: token ids.
        architecture: of the model.
        kind: `--states`, for the message.

    Raises:
        ValueError: if it is not or does not.
    """
    if len(prefix) >= architecture.n_ctx:
        raise ValueError(
            f"--states {kind} needs {len(prefix) + 1} positions, and the model reads {architecture.n_ctx}; "
            "use --states mlp"
        )
    outside = [token_id for token_id in prefix if not 0 <= token_id < architecture.vocab_size]
    if outside:
        raise ValueError(f"prefix token {outside[0]} is outside the vocabulary of {architecture.vocab_size} tokens")


class _Prefix:
    """A prefix in front of a layer; computed as one block is, on one thread."""

    def __init__(self, weights: Weights, layer: int, prefix_CD: np.ndarray) -> None:
        self._stream_CD = torch.from_numpy(prefix_CD)

        def work(_: slice) -> None:
            self.attention = Attention(weights, layer)
            added_1CD, contexts = self.attention.within(self._stream_CD[None])
            self._added_CD, self.context = added_1CD[0], contexts[0]

        for_blocks(1, work, 1)

    def after(self, add_mlp: Part, parallel: bool) -> np.ndarray:
        """What leaves the layer at the prefix, float32 [C, D]."""
        left_CD = np.empty(0, np.float32)

        def work(_: slice) -> None:
            nonlocal left_CD
            after_CD = self._stream_CD + self._added_CD
            left_CD = (after_CD + add_mlp(self._stream_CD if parallel else after_CD)).numpy()

        for_blocks(1, work, 1)
        return left_CD


def attention_means(
    weights: ModelWeights, ordinary: Sequence[int], layers: int, *, threads: int
) -> Float32[np.ndarray, "L D"]:
    """Mean output of the attention of the first layers over the reference prompts, BOS left out.

    The prompts are random ordinary tokens after BOS, the same for every run.

    Args:
        weights: the model.
        ordinary: token ids to draw from.
        layers: how many layers, from layer 0.
        threads: threads to use; the result does not depend on it.

    Returns:
        float32 [L, D].

    Raises:
        ValueError: if the model has no BOS, or its vocabulary or context is too small for a prompt.
    """
    architecture = weights.architecture
    bos = architecture.require_bos()
    length = min(REFERENCE_LENGTH, architecture.n_ctx - 1, len(ordinary))
    if length < 1:
        raise ValueError("--states mean needs prompts, and the model has no room or no token for one; use --states mlp")
    seed = streams.REFERENCE_PROMPTS.sequence(0)
    tokens_PT = random_tokens(np.asarray(ordinary), bos=bos, count=REFERENCE_PROMPTS, length=length, seed=seed)

    def sums(model: Forward, batch_PT: np.ndarray) -> np.ndarray:
        sum_LD = np.zeros((layers, architecture.d_model))

        def hook_of(layer: int) -> Hook:
            def add(output_PTD: torch.Tensor) -> None:
                sum_LD[layer] = output_PTD[:, 1:].double().sum(dim=(0, 1)).numpy()

            return add

        hooks = {model.attention_hook(layer): hook_of(layer) for layer in range(layers)}
        model.run(batch_PT, hooks, stop_at_layer=layers)
        return sum_LD

    batches = [tokens_PT[rows] for rows in prompt_batches(len(tokens_PT))]
    total_LD = np.sum(for_batches(weights, batches, sums, threads=threads), axis=0)
    mean_LD: Float32[np.ndarray, "L D"] = (total_LD / (REFERENCE_PROMPTS * length)).astype(np.float32)
    return mean_LD


def normalise(states_VD: Float32[np.ndarray, "V D"], norm: Norm, *, threads: int) -> Float32[np.ndarray, "V D"]:
    """Normalised states N_l: the model's normalisation without weight and bias, taken in float64 and rounded once.

    Args:
        states_VD: float32 [V, D], the states that enter a layer.
        norm: the model's normalisation.
        threads: threads to use; the result does not depend on it.

    Returns:
        float32 [V, D]: each row divided by sqrt(mean square + eps), and centred before where the model does so.
    """
    normalised_VD = np.empty_like(states_VD)

    def normalise_rows(rows: slice) -> None:
        normalised_VD[rows] = standardised(torch.from_numpy(states_VD[rows].astype(np.float64)), norm)

    for_blocks(len(states_VD), normalise_rows, threads)
    return normalised_VD
