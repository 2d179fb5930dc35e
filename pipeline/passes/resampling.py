"""Bootstrap intervals of paired differences: what an intervention changed, over the passages it was measured on.

Shapes: B resamples, P passages, N differences.
"""

from __future__ import annotations

import numpy as np

from qkatlas.pipeline.circuit.summary import BOOTSTRAP_DRAWS
from qkatlas.pipeline.text import streams


class PairedBootstrap:
    """Resamples of passages, the same ones for every difference.

    Args:
        weights_P: float64 [P], how much each passage counts, such as its number of predicted tokens.
        seed: of the draws.

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13 (percentile interval).
    """

    def __init__(self, weights_P: np.ndarray, seed: int) -> None:
        rng = streams.PASSAGES.generator(seed)
        count = len(weights_P)
        drawn_BP = rng.integers(0, count, (BOOTSTRAP_DRAWS, count))
        times_BP = np.stack([np.bincount(drawn_P, minlength=count) for drawn_P in drawn_BP])
        shares_BP = times_BP * weights_P
        self._shares_BP = shares_BP / shares_BP.sum(axis=1, keepdims=True)

    def interval(self, differences_PN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The middle 95% of the resampled weighted means.

        Args:
            differences_PN: float64 [P, N], changed minus unchanged, by passage.

        Returns:
            Lower and upper ends, float64 [N] each; NaN for a single passage, which tells nothing of others.
        """
        if len(differences_PN) == 1:
            nothing_N = np.full(differences_PN.shape[1], np.nan)
            return nothing_N, nothing_N
        # Not a matrix product: its bits could depend on the number of threads.
        means_BN = np.einsum("bp,pn->bn", self._shares_BP, differences_PN, optimize=False)
        low_N, high_N = np.percentile(means_BN, [2.5, 97.5], axis=0)
        return low_N, high_N
