"""When a head serves a task, and how many heads a preselection may have missed.

Shapes: N heads, P prompts, A answers of a prompt, G groups of prompts with the same answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

LEAST_SHARE = 0.02
"""Least specific effect of a head that serves a task, as a share of what the model gains by solving it: what is surely
above zero may still be next to nothing."""

FALSE_SHARE = 0.05
"""Share of labels that may be false (Benjamini and Hochberg, 1995), over all measured pairs of a run."""

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ByAnswer:
    """Prompts with the same answers, taken as one observation.

    There are seven days: 64 prompts about them are no 64 independent ones, and intervals that took them for such would
    be too narrow. A model of random weights then seems to solve what it cannot.

    Attributes:
        group_P: int64 [P], which group each prompt is of.
        size_G: float64, prompts of each group.
    """

    group_P: npt.NDArray[np.int64]
    size_G: Float64Array

    @classmethod
    def of(cls, answers_PA: npt.NDArray[np.int64]) -> ByAnswer:
        """Group prompts by all of their answers."""
        _, group_P, size_G = np.unique(answers_PA, axis=0, return_inverse=True, return_counts=True)
        return cls(group_P.reshape(-1), size_G.astype(np.float64))

    def means(self, values_PN: Float64Array) -> Float64Array:
        """Mean over the prompts of each group, float64 [G, N]."""
        sums_GN = np.zeros((len(self.size_G), values_PN.shape[1]))
        np.add.at(sums_GN, self.group_P, values_PN)
        means_GN: Float64Array = sums_GN / self.size_G[:, None]
        return means_GN


def one_sided(differences_PN: Float64Array) -> Float64Array:
    """P-values of means above zero, by a paired t test of each column; 1 where nothing varies, or of one prompt."""
    count = len(differences_PN)
    if count < 2:
        return np.ones(differences_PN.shape[1])
    std_N = differences_PN.std(axis=0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        t_N = differences_PN.mean(axis=0) / (std_N / np.sqrt(count))
    p_N: Float64Array = np.where(std_N > 0, stats.t.sf(t_N, count - 1), 1.0)
    return p_N


def false_shares(p_X: Float64Array) -> Float64Array:
    """For each p-value the share of false ones among all that are as small (q-values); any order.

    Source:
        Benjamini and Hochberg, Controlling the False Discovery Rate, 1995.
    """
    order = np.argsort(p_X, kind="stable")
    ranked = p_X[order] * len(p_X) / np.arange(1, len(p_X) + 1)
    q_X = np.empty_like(p_X)
    q_X[order] = np.minimum(np.minimum.accumulate(ranked[::-1])[::-1], 1.0)
    return q_X


def serves(
    *,
    solved: bool,
    gain: float,
    gain_false_share: float,
    effect_low: float,
    specific: float,
    specific_low: float,
    false_share: float,
) -> bool:
    """Whether a head serves a task.

    Args:
        solved: whether the model solves the task; an unsolved task labels no head.
        gain: loss on controls less loss on prompts, nats.
        gain_false_share: `false_shares` of the gains of all tasks.
        effect_low: lower end of the interval of the effect on prompts.
        specific: effect on prompts less that on controls, nats.
        specific_low: lower end of its interval.
        false_share: `false_shares` of the specific effects of all pairs.
    """
    solved = solved and gain_false_share <= FALSE_SHARE
    surely = effect_low > 0 and specific_low > 0 and false_share <= FALSE_SHARE
    return bool(solved and surely and specific >= LEAST_SHARE * gain)


def most_missed(left: int, audited: int, hits: int) -> int:
    """Upper 95% bound on how many of the heads that were not preselected serve a task, the audited ones left out.

    Args:
        left: heads that were not preselected.
        audited: of these, a random sample that was measured all the same.
        hits: of the sample, those that serve the task.

    Returns:
        The largest number of heads among the unmeasured ones with which so few hits have a chance of 5% or more.
    """
    for served in range(hits + left - audited, hits, -1):
        if stats.hypergeom.cdf(hits, left, served, audited) >= 0.05:
            return served - hits
    return 0


def entropy(shares: Sequence[float]) -> float:
    """Entropy of some positive weights, nats; 0 for a single one."""
    weights = np.array(shares, np.float64)
    weights /= weights.sum()
    return float(-(weights * np.log(weights)).sum())
