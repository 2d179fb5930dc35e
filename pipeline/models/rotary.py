"""Rotary positions: the angles by which a model turns queries and keys, and offsets between a query and a key.

A head of width H turns pairs of numbers j and j + W/2 of its first W, by position times frequency_j. The score of a
query d positions after a key is that of the query turned by d times the frequencies with the key as it is; so an offset
is one rotation of the queries, and a mean over offsets is one linear map of them.

Shapes: W width that is turned, J = W/2 pairs.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

SCALINGS = ("default", "linear", "dynamic", "llama3", "yarn")
"""Kinds of frequencies; any other is refused by name."""

_PATTERN = re.compile(r"(?:mean:(\d{1,9})-)?(\d{1,9})", re.ASCII)


@dataclass(frozen=True)
class Offsets:
    """Positions from a key to the query that reads it: one number, or the mean over a range.

    Attributes:
        first, last: the range, both ends included.
    """

    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> Offsets:
        """Read `4` or `mean:1-16`.

        Raises:
            ValueError: if the text is neither.
        """
        match = _PATTERN.fullmatch(text)
        if match is None or int(match[1] or 0) > int(match[2]):
            raise ValueError(f"offset {text!r} is malformed; write a number such as 1, or a range such as mean:1-16")
        return cls(int(match[1] or match[2]), int(match[2]))

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"mean:{self.first}-{self.last}"

    def values(self) -> npt.NDArray[np.float64]:
        """Every offset of the range."""
        return np.arange(self.first, self.last + 1, dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class Rotary:
    """How a layer turns its queries and keys.

    Attributes:
        width: numbers of a head that the exponents of the frequencies count over; an odd one is turned with one more.
        theta: base of the frequencies.
        scaling: one of SCALINGS.
        settings: what the scaling is parametrised by: name -> value, in order of names.
        divisors: of the frequencies, one a pair, where a file stores them.
    """

    width: int
    theta: float
    scaling: str = "default"
    settings: tuple[tuple[str, float], ...] = ()
    divisors: tuple[float, ...] | None = None

    @property
    def turned(self) -> int:
        """Numbers of a head that are turned, W."""
        return 2 * -(-self.width // 2)

    def frequencies(self) -> npt.NDArray[np.float64]:
        """Radians a position turns each pair by, float64 [J].

        They are computed and rounded in float32, as every implementation of these models does, and are what a model was
        trained with.
        """
        power_J = self.theta ** (torch.arange(0, self.width, 2, dtype=torch.float32) / self.width)
        frequency_J = 1.0 / power_J
        settings = dict(self.settings)
        if self.scaling == "linear":
            frequency_J = frequency_J / settings["factor"]
        elif self.scaling == "llama3":
            frequency_J = _llama3(frequency_J, settings)
        elif self.scaling == "yarn":
            frequency_J = _yarn(power_J, settings, self.width, self.theta)
        if self.divisors is not None:
            frequency_J = frequency_J / torch.tensor(self.divisors, dtype=torch.float32)
        found: npt.NDArray[np.float64] = frequency_J.numpy().astype(np.float64)
        return found

    @property
    def factor(self) -> float:
        """Factor of the turned part of queries and of keys."""
        settings = dict(self.settings)
        if self.scaling != "yarn":
            return 1.0
        if "attention_factor" in settings:
            return settings["attention_factor"]
        mscale, of_all = settings.get("mscale", 0.0), settings.get("mscale_all_dim", 0.0)
        if mscale and of_all:
            return _mscale(settings["factor"], mscale) / _mscale(settings["factor"], of_all)
        return _mscale(settings["factor"], 1.0)

    def turn(self, values: torch.Tensor, positions: npt.NDArray[np.float64], *, mean: bool = False) -> torch.Tensor:
        """Turn queries or keys.

        Args:
            values: [..., T, H], or [..., H] for the mean.
            positions: float64 [T], by how many positions.
            mean: whether the mean of the rotations by all positions is applied to every value instead.

        Returns:
            The values turned and multiplied by the factor, of the same shape and type.
        """
        if self.factor == 1 and not positions.any():
            return values
        angle_TJ = positions[:, None] * self.frequencies()
        turns = (np.cos(angle_TJ), np.sin(angle_TJ))
        cos, sin = (torch.from_numpy(part.mean(axis=0) if mean else part).to(values.dtype) for part in turns)
        return self._turned(values, cos, sin)

    def turn_by_shares(
        self, values_RH: torch.Tensor, position_R: npt.NDArray[np.float64], share_RT: torch.Tensor
    ) -> torch.Tensor:
        """Turn each query by a mean of rotations of its own, from where it stands to each key.

        Args:
            values_RH: [R, H].
            position_R: float64 [R], where the queries stand.
            share_RT: float64 [R, T], how much the rotation to a key at 0 to T - 1 counts; they sum to 1.

        Returns:
            The queries turned and multiplied by the factor, of the same shape and type.
        """
        # cos w(n - i) and sin w(n - i) by their sums, so that nothing of [R, T, J] is made.
        keys_TJ = np.arange(share_RT.shape[1], dtype=np.float64)[:, None] * self.frequencies()
        own_RJ = position_R[:, None] * self.frequencies()
        keys_cos_RJ, keys_sin_RJ = (share_RT @ torch.from_numpy(part) for part in (np.cos(keys_TJ), np.sin(keys_TJ)))
        own_cos_RJ, own_sin_RJ = (torch.from_numpy(part) for part in (np.cos(own_RJ), np.sin(own_RJ)))
        cos = own_cos_RJ * keys_cos_RJ + own_sin_RJ * keys_sin_RJ
        sin = own_sin_RJ * keys_cos_RJ - own_cos_RJ * keys_sin_RJ
        return self._turned(values_RH, cos.to(values_RH.dtype), sin.to(values_RH.dtype))

    def _turned(self, values: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        half, whole = self.turned // 2, self.turned
        first, second, rest = values[..., :half], values[..., half:whole], values[..., whole:]
        turned = [first * cos - second * sin, second * cos + first * sin]
        return torch.cat([*(part * self.factor for part in turned), rest], dim=-1)


def _llama3(frequency_J: torch.Tensor, settings: dict[str, float]) -> torch.Tensor:
    """Frequencies of Llama 3: long waves are longer by a factor, short ones as they are, others between."""
    factor, context = settings["factor"], settings["original_max_position_embeddings"]
    low, high = settings["low_freq_factor"], settings["high_freq_factor"]
    wave_J = 2 * math.pi / frequency_J
    long_J, short_J = wave_J > context / low, wave_J < context / high
    scaled_J = torch.where(long_J, frequency_J / factor, frequency_J)
    smooth_J = (context / wave_J - low) / (high - low)
    between_J = (1 - smooth_J) * scaled_J / factor + smooth_J * scaled_J
    return torch.where(~short_J & ~long_J, between_J, scaled_J)


def _yarn(power_J: torch.Tensor, settings: dict[str, float], width: int, theta: float) -> torch.Tensor:
    """Frequencies of YaRN: interpolated for long waves, kept for short ones, a ramp between."""
    context = settings["original_max_position_embeddings"]

    def pair_of(rotations: float) -> float:
        return (width * math.log(context / (rotations * 2 * math.pi))) / (2 * math.log(theta))

    low, high = pair_of(settings.get("beta_fast") or 32), pair_of(settings.get("beta_slow") or 1)
    if settings.get("truncate", 1.0):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    ramp_J = (torch.arange(width // 2, dtype=torch.float32) - low) / ((high if high != low else high + 0.001) - low)
    kept_J = 1 - torch.clamp(ramp_J, 0, 1)
    return 1.0 / (settings["factor"] * power_J) * (1 - kept_J) + 1.0 / power_J * kept_J


def _mscale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0
