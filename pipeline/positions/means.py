"""A head's mean query and key, and the positional part of its scores that follows from them.

The score of a query at n with a key at i is kappa(n, i) + c(n, i, key): kappa that of the mean key, c that of how the
key differs from the mean. Where positions are learned there is a mean key for each position. Under rotary positions one
mean, before it is turned, serves all, and kappa depends on the offset n - i alone:

    kappa(d) = s sum_j [(a_j c_j + b_j d_j) cos(w_j d) - (b_j c_j - a_j d_j) sin(w_j d)]

with a, b the halves of the mean query, c, d those of the mean key, and w the frequencies.

Shapes: T positions, H width of a head, R queries, X keys, J pairs that are turned, B windows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from qkatlas.pipeline.models.rotary import Rotary
from qkatlas.pipeline.positions.kernel import shares_of

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class HeadMeans:
    """The mean key of a head, the query that stands for all, and how the head scores.

    Attributes:
        key_TH: float64 [T, H], mean keys by position before they are turned; one row for all under rotary positions.
        query_TH: float64 [T, H] likewise, of the mean query or that of a chosen token.
        length: positions, T.
        scale: factor from the dot product of a query and a key to their score.
        cap: the score x is cap tanh(x / cap); None = it is x.
        rotary: how queries and keys are turned; None = positions are learned.
        window: positions that a query reads, its own among them; None = all before it.
    """

    key_TH: torch.Tensor
    query_TH: torch.Tensor
    length: int
    scale: float
    cap: float | None = None
    rotary: Rotary | None = None
    window: int | None = None

    def queries_at(self, position_R: IntArray) -> torch.Tensor:
        """The query that stands for all at some positions, float64 [R, H], before it is turned."""
        return self.query_TH.expand(self.length, -1)[torch.from_numpy(position_R)]

    def keys_at(self, position_R: IntArray) -> torch.Tensor:
        """The mean keys at some positions, float64 [R, H], before they are turned."""
        return self.key_TH.expand(self.length, -1)[torch.from_numpy(position_R)]

    def kappa(self, query_RH: torch.Tensor, position_R: IntArray) -> torch.Tensor:
        """The positional part of scores, before a soft cap.

        Args:
            query_RH: float64 [R, H], queries before they are turned.
            position_R: int64 [R], where they stand.

        Returns:
            float64 [R, T], in nats; keys that a query does not read among them.
        """
        return self.scores(query_RH, position_R, self.key_TH.expand(self.length, -1))

    def scores(self, query_RH: torch.Tensor, position_R: IntArray, key_TH: torch.Tensor) -> torch.Tensor:
        """Scores of queries with keys at positions 0 to T - 1, before a soft cap.

        Args:
            query_RH: float64 [R, H], before they are turned.
            position_R: int64 [R], where they stand.
            key_TH: float64 [T, H], before they are turned.

        Returns:
            float64 [R, T], in nats.
        """
        if self.rotary is not None:
            query_RH = self.rotary.turn(query_RH, position_R.astype(np.float64))
            key_TH = self.rotary.turn(key_TH, np.arange(len(key_TH), dtype=np.float64))
        return self.scale * (query_RH @ key_TH.T)

    def read(self, position_R: IntArray) -> torch.Tensor:
        """Which keys queries at some positions read, BOS left out: bool [R, T]."""
        between_RT = torch.from_numpy(position_R)[:, None] - torch.arange(self.length)
        read_RT = (between_RT >= 0) & (between_RT < (self.window or self.length))
        read_RT[:, 0] = False
        return read_RT

    def pattern(self, query_RH: torch.Tensor, position_R: IntArray) -> torch.Tensor:
        """The positional pattern of some queries: their shares if every key were the mean, BOS left out; [R, T]."""
        return shares_of(self.kappa(query_RH, position_R), self.read(position_R), self.cap)

    def content(
        self, query_RH: torch.Tensor, share_RT: torch.Tensor, position_R: IntArray, deviation_XH: torch.Tensor
    ) -> torch.Tensor:
        """Logarithm of the content factors of some keys: the mean of c over where the pattern of a query looks.

        Under rotary positions that is s q . R^T (k - mean key), R the mean rotation under the pattern.

        Args:
            query_RH: float64 [R, H], before they are turned.
            share_RT: float64 [R, T], their positional patterns.
            position_R: int64 [R], where they stand.
            deviation_XH: float64 [X, H], keys less the mean key where they stand, before they are turned.

        Returns:
            float64 [R, X], in nats.
        """
        if self.rotary is not None:
            query_RH = self.rotary.turn_by_shares(query_RH, position_R.astype(np.float64), share_RT)
            deviation_XH = self.rotary.turn(deviation_XH, np.zeros(1))
        return self.scale * (query_RH @ deviation_XH.T)

    def for_query(self, query_TH: torch.Tensor) -> HeadMeans:
        """The same head with another query that stands for all."""
        return replace(self, query_TH=query_TH)


@dataclass(frozen=True, kw_only=True)
class Waves:
    """A kernel under rotary positions as a sum of waves: kappa(d) = sum_j amplitude_j cos(omega_j d + phase_j).

    The last wave is what is not turned, a constant, where a head has such a part.

    Attributes:
        omega_J: radians a position.
        amplitude_J: nats, 0 or more.
        phase_J: radians.
    """

    omega_J: npt.NDArray[np.float64]
    amplitude_J: npt.NDArray[np.float64]
    phase_J: npt.NDArray[np.float64]

    @classmethod
    def of(cls, means: HeadMeans) -> Waves:
        """The waves of a head whose positions are rotary."""
        rotary = means.rotary
        assert rotary is not None, "positions are learned"
        half, whole = rotary.turned // 2, rotary.turned
        query_H, key_H = means.query_TH[0].numpy(), means.key_TH[0].numpy()
        a, b, c, d = query_H[:half], query_H[half:whole], key_H[:half], key_H[half:whole]
        size = means.scale * rotary.factor**2
        cosine_J, sine_J = size * (a * c + b * d), size * (b * c - a * d)
        omega_J = rotary.frequencies()
        rest = means.scale * float(query_H[whole:] @ key_H[whole:])
        if whole < len(query_H):
            cosine_J, sine_J, omega_J = (
                np.append(values, more) for values, more in ((cosine_J, rest), (sine_J, 0.0), (omega_J, 0.0))
            )
        return cls(omega_J=omega_J, amplitude_J=np.hypot(cosine_J, sine_J), phase_J=np.arctan2(sine_J, cosine_J))

    def kappa(self, offset_O: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The positional part of the score at some offsets, in nats."""
        angle_OJ = offset_O[:, None] * self.omega_J + self.phase_J
        found: npt.NDArray[np.float64] = np.cos(angle_OJ) @ self.amplitude_J
        return found
