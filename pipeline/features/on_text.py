"""A dictionary on text: what it reads there, by the convention that is taken.

Shapes: W windows, T positions, P = W (T - 1) positions without BOS, X width of what a dictionary reads, V vocabulary, D
model, F features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from qkatlas.pipeline.features.attention import LayerHeads
from qkatlas.pipeline.features.config import DictionaryConfig
from qkatlas.pipeline.features.convention import Convention, folded, measure_convention
from qkatlas.pipeline.features.encoder import Encoder
from qkatlas.pipeline.features.kinds import FOLDED, Z
from qkatlas.pipeline.models.blocks import on_one_thread


@dataclass(frozen=True, kw_only=True)
class DictionaryOnText:
    """A dictionary, what it reads, and what its features write.

    Attributes:
        config: of the dictionary.
        tensors: its weights, float32.
        trained_F: densities in training; None where it does not say.
        heads: the layer's heads.
        tokens_WT: int64 [W, T].
        stream_WTD: float32 [W, T, D], what enters the layer.
        convention: how activations are taken.
        limit_P: the k-th largest pre-activations; None but of topk.
        write_XD: float64 [X, D], from what it reads to what meets the unembedding.
        unembedding_VD: float32 [V, D], centred.
        unembedded_from: hash of what the unembedding was made from.
        made_from: hash of the model, the dictionary and how activations are taken.
    """

    config: DictionaryConfig
    tensors: Mapping[str, np.ndarray]
    trained_F: np.ndarray | None
    heads: LayerHeads
    tokens_WT: np.ndarray
    stream_WTD: np.ndarray
    convention: Convention
    limit_P: np.ndarray | None
    write_XD: np.ndarray
    unembedding_VD: np.ndarray
    unembedded_from: str
    made_from: str

    def identity(self) -> str:
        """Hash of all that the rest follows from."""
        digest = hashlib.sha256(self.made_from.encode())
        for values in (self.tokens_WT, self.stream_WTD, self.limit_P):
            if values is not None:
                digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()

    @property
    def encoder(self) -> Encoder:
        """The dictionary as it is applied."""
        return Encoder(config=self.config, tensors=self.tensors)


def activations(layer: DictionaryOnText, *, threads: int) -> torch.Tensor:
    """What a dictionary reads on the text by its convention, float64 [P, X], BOS left out."""
    raw_PX = raw_activations(layer.config, layer.heads, layer.stream_WTD, threads=threads)
    if layer.convention.kind != FOLDED:
        return raw_PX
    return on_one_thread(lambda: folded(layer.config.reads, raw_PX, folded_constant(layer.config, layer.heads)))


def raw_activations(
    config: DictionaryConfig, heads: LayerHeads, stream_WTD: np.ndarray, *, threads: int
) -> torch.Tensor:
    """What a dictionary reads of the model as it is, float64 [P, X], BOS left out."""
    if config.reads == Z:
        return heads.mixed(stream_WTD, threads=threads)[:, 1:].reshape(-1, config.d_in)
    return torch.from_numpy(stream_WTD[:, 1:].reshape(-1, config.d_in).astype(np.float64))


def folded_constant(config: DictionaryConfig, heads: LayerHeads) -> torch.Tensor | None:
    """What tells the convention folded from raw; None of a residual stream that a RMSNorm reads."""
    return heads.constant() if config.reads == Z or heads.scores.norm_kind == "layer" else None


def on_text(
    heads: LayerHeads,
    encoder: Encoder,
    stream_WTD: np.ndarray,
    asked: str,
    *,
    threads: int,
) -> tuple[Convention, np.ndarray | None]:
    """Measure by which convention a dictionary is to read the text, and what its largest pre-activations are then.

    Args:
        heads: the layer's.
        encoder: the dictionary.
        stream_WTD: float32 [W, T, D], what enters the layer.
        asked: one of CONVENTIONS.
        threads: threads to use; no number depends on it.

    Returns:
        The convention, and `Encoder.limits` by it.
    """
    config = encoder.config
    raw_PX = raw_activations(config, heads, stream_WTD, threads=threads)
    constant_X = on_one_thread(lambda: folded_constant(config, heads))
    convention = measure_convention(asked, encoder, raw_PX, constant_X, threads=threads)

    def given() -> torch.Tensor:
        return encoder.input(folded(config.reads, raw_PX, constant_X) if convention.kind == FOLDED else raw_PX)

    limit_P = encoder.limits(on_one_thread(given), threads=threads)
    return convention, None if limit_P is None else limit_P.numpy()
