"""A head of a model with rotary positions, steered at every distance.

Such a head has one bilinear form for each distance between a query and a key: W'_d = W'_Q R(d)^T W'_K^T. Inside the
model all distances occur, and each form is steered by itself, as tables of that `--offset` would have it.

Shapes: D model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qkatlas.pipeline.circuit.point import Point
from qkatlas.pipeline.circuit.projection import HeadWeights, turned
from qkatlas.pipeline.circuit.steering import SteerableHead
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.models.rotary import Offsets


@dataclass(frozen=True, kw_only=True)
class EveryOffset:
    """A head at all distances; the fields are those of `SteerableHead`.

    Attributes:
        head: which head.
        weights: its own, before they are turned.
        moment_DD: float64 [D, D], second moment of the layer's normalised states.
        skew, eigenvalues, move, seed: what is steered, and how.
    """

    head: Head
    weights: HeadWeights
    moment_DD: npt.NDArray[np.float64]
    skew: str
    eigenvalues: str
    move: str
    seed: int

    def at(self, point: Point, distances: int) -> list[HeadWeights]:
        """The head steered to one point of a grid.

        Args:
            point: the point; a control draws from the eigenvalues of each distance anew.
            distances: how many, from 0 on.

        Returns:
            The steered projections at each distance.
        """
        return [self._steerable(Offsets(distance, distance)).at(point).weights for distance in range(distances)]

    def _steerable(self, offset: Offsets) -> SteerableHead:
        return SteerableHead(
            self.head,
            turned(self.weights, offset),
            self.moment_DD,
            skew=self.skew,
            eigenvalues=self.eigenvalues,
            move=self.move,
            seed=self.seed,
        )
