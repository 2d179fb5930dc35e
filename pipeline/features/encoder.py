"""What a dictionary makes of activations: its features' pre-activations and activations, and what these give back.

    u = normalise(x) - b_dec,  pre = u W_enc + b_enc,  x' = denormalise(activations W_dec + b_dec)

    standard  relu(pre)
    jumprelu  relu(pre), where pre > threshold
    topk      relu(pre) of the k largest pre at a position
    gated     relu(u W_enc exp(r_mag) + b_mag), where pre = u W_enc + b_gate > 0

b_dec is taken off where `apply_b_dec_to_input` says so. Two normalisations divide each activation by a number of its
own, so that what a part of it contributes to a pre-activation stays linear once that number is known: `scales`.

Everything is float64, and features are taken in blocks, for no machine holds all features at all positions.

Shapes: P positions, X width of what is encoded, F features, B features of a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from qkatlas.pipeline.features.config import DictionaryConfig
from qkatlas.pipeline.features.kinds import CONSTANT_NORM, GATED, JUMPRELU, LAYER_NORM, TOPK
from qkatlas.pipeline.models.blocks import for_blocks, on_one_thread

BLOCK_FEATURES = 64
"""Features of a block; fixed, because the shape of a product may change its last bit."""

BLOCK_POSITIONS = 512
"""Positions of a block where all features are taken at once."""

_EPS = 1e-5
"""What is added to the standard deviation of `layer_norm`."""

_TIE = 1e-9
"""Pre-activations this close to the k-th largest, as a share of it, count as it: products of two shapes differ."""


@dataclass(frozen=True, kw_only=True)
class Normalised:
    """Activations as a dictionary normalises them.

    Attributes:
        values_PX: float64, normalised; b_dec is not taken off.
        scale_P: float64, what the centred activations were multiplied by.
        mean_P: float64, what was taken off each of their numbers; zeros where nothing is.
        back_P: float64, what a reconstruction is multiplied by before the mean is added again.
    """

    values_PX: torch.Tensor
    scale_P: torch.Tensor
    mean_P: torch.Tensor
    back_P: torch.Tensor


def normalise(config: DictionaryConfig, x_PX: torch.Tensor) -> Normalised:
    """Normalise activations.

    Args:
        config: of the dictionary.
        x_PX: float64 [P, X].
    """
    one_P = torch.ones(len(x_PX), dtype=torch.float64)
    zero_P = torch.zeros(len(x_PX), dtype=torch.float64)
    if config.normalise == CONSTANT_NORM:
        scale_P = config.d_in**0.5 / x_PX.norm(dim=1)
        return Normalised(values_PX=x_PX * scale_P[:, None], scale_P=scale_P, mean_P=zero_P, back_P=1 / scale_P)
    if config.normalise == LAYER_NORM:
        mean_P = x_PX.mean(dim=1)
        centred_PX = x_PX - mean_P[:, None]
        std_P = centred_PX.std(dim=1)  # of a sample, as torch has it
        scale_P = 1 / (std_P + _EPS)
        return Normalised(values_PX=centred_PX * scale_P[:, None], scale_P=scale_P, mean_P=mean_P, back_P=std_P)
    return Normalised(values_PX=x_PX, scale_P=one_P, mean_P=zero_P, back_P=one_P)


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """The weights of a dictionary, as they are applied.

    Attributes:
        config: of the dictionary.
        tensors: float32, as `Dictionary.tensors` gives them.
    """

    config: DictionaryConfig
    tensors: Mapping[str, np.ndarray]

    def blocks(self) -> Iterator[slice]:
        """All features, block by block."""
        for start in range(0, self.config.d_sae, BLOCK_FEATURES):
            yield slice(start, min(start + BLOCK_FEATURES, self.config.d_sae))

    def read(self, features: slice) -> torch.Tensor:
        """What some features' pre-activations are of centred activations times their scale, float64 [X, B].

        It is W_enc; where a dictionary centres activations it is centred over X, which comes to the same.
        """
        w_enc_XB = self._part("W_enc", features)
        return w_enc_XB - w_enc_XB.mean(dim=0) if self.config.normalise == LAYER_NORM else w_enc_XB

    def constant(self, features: slice) -> torch.Tensor:
        """The rest of some features' pre-activations, the same at every position: b_enc - b_dec W_enc, float64 [B]."""
        bias_B = self._part("b_gate" if self.config.architecture == GATED else "b_enc", features)
        if not self.config.subtracts:
            return bias_B
        return bias_B - self._all("b_dec") @ self._part("W_enc", features)

    def input(self, x_PX: torch.Tensor) -> torch.Tensor:
        """What W_enc is applied to, float64 [P, X]: u."""
        values_PX = normalise(self.config, x_PX).values_PX
        return values_PX - self._all("b_dec") if self.config.subtracts else values_PX

    def encode(
        self, u_PX: torch.Tensor, features: slice, limit_P: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode some features.

        Args:
            u_PX: float64 [P, X], `input` of the activations.
            features: the features of a block.
            limit_P: `limits` at these positions; of `topk` alone.

        Returns:
            Activations and pre-activations, float64 [P, B] each.
        """
        architecture = self.config.architecture
        projected_PB = u_PX @ self._part("W_enc", features)
        pre_PB = projected_PB + self._part("b_gate" if architecture == GATED else "b_enc", features)
        if architecture == JUMPRELU:
            fires_PB = pre_PB > self._part("threshold", features)
            return torch.where(fires_PB, pre_PB.clamp(min=0), 0.0), pre_PB
        if architecture == GATED:
            size_PB = projected_PB * self._part("r_mag", features).exp() + self._part("b_mag", features)
            return torch.where(pre_PB > 0, size_PB.clamp(min=0), 0.0), pre_PB
        if architecture == TOPK:
            assert limit_P is not None, "the k-th largest is not known of a block"
            ranked_PB = self._ranked(pre_PB, features)
            kept_PB = ranked_PB >= (limit_P - _TIE * limit_P.abs())[:, None]
            return torch.where(kept_PB, ranked_PB.clamp(min=0), 0.0), pre_PB
        return pre_PB.clamp(min=0), pre_PB

    def limits(self, u_PX: torch.Tensor, *, threads: int) -> torch.Tensor | None:
        """The k-th largest pre-activation at each position, float64 [P]; None of all architectures but `topk`.

        Args:
            u_PX: float64 [P, X].
            threads: threads to use; no number depends on it.
        """
        k = self.config.k
        if k is None:
            return None
        limit_P = torch.empty(len(u_PX), dtype=torch.float64)

        def find(rows: slice) -> None:
            # The largest of each block of features are all that can be among the largest of all.
            best_RK: torch.Tensor | None = None
            for features in self.blocks():
                pre_RB = u_PX[rows] @ self._part("W_enc", features) + self._part("b_enc", features)
                ranked_RB = self._ranked(pre_RB, features)
                both = ranked_RB if best_RK is None else torch.cat([best_RK, ranked_RB], dim=1)
                best_RK = both.topk(min(k, both.shape[1]), dim=1).values
            assert best_RK is not None
            limit_P[rows] = best_RK[:, -1]

        for_blocks(len(u_PX), find, threads, BLOCK_POSITIONS)
        return limit_P

    def reconstruct(self, x_PX: torch.Tensor, *, threads: int) -> torch.Tensor:
        """What a dictionary gives back of activations, float64 [P, X].

        Args:
            x_PX: float64 [P, X].
            threads: threads to use; no number depends on it.
        """
        u_PX = on_one_thread(lambda: self.input(x_PX))
        limit_P = self.limits(u_PX, threads=threads)
        found_PX = torch.empty_like(x_PX)

        def give_back(rows: slice) -> None:
            sum_RX = self._all("b_dec").repeat(rows.stop - rows.start, 1)
            for features in self.blocks():
                limit_R = None if limit_P is None else limit_P[rows]
                active_RB, _ = self.encode(u_PX[rows], features, limit_R)
                sum_RX += active_RB @ self.written(features)
            normalised = normalise(self.config, x_PX[rows])
            found_PX[rows] = sum_RX * normalised.back_P[:, None] + normalised.mean_P[:, None]

        for_blocks(len(x_PX), give_back, threads, BLOCK_POSITIONS)
        return found_PX

    def written(self, features: slice) -> torch.Tensor:
        """What one unit of some features' activations writes, float64 [B, X], up to the position's own scale."""
        w_dec_BX = torch.from_numpy(self.tensors["W_dec"][features].astype(np.float64))
        return w_dec_BX / w_dec_BX.norm(dim=1, keepdim=True) if self.config.by_decoder_norm else w_dec_BX

    def _ranked(self, pre_PB: torch.Tensor, features: slice) -> torch.Tensor:
        if not self.config.by_decoder_norm:
            return pre_PB
        norm_B: torch.Tensor = torch.from_numpy(self.tensors["W_dec"][features].astype(np.float64)).norm(dim=1)
        return pre_PB * norm_B

    def _part(self, name: str, features: slice) -> torch.Tensor:
        return torch.from_numpy(self.tensors[name][..., features].astype(np.float64))

    def _all(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.tensors[name].astype(np.float64))
