"""The Semantic Category Score: how surely a head attends to other words of a word's category.

Shapes: P prompts, N heads, T positions.
"""

from __future__ import annotations

import numpy as np
import torch

from qkatlas.pipeline.models.reach import reach
from qkatlas.pipeline.passes.behaviour import causal_pattern
from qkatlas.pipeline.text.prompts import CategoryPrompts


def semantic_category_scores(scores_PNTT: torch.Tensor, prompts: CategoryPrompts) -> torch.Tensor:
    """Score some heads on some prompts: the mean over queries q of -ln sum_k (M * A)[q, k], in nats.

    A is the attention pattern and M marks the keys that are expected (`CategoryPrompts.expected_PTT`). Both sums are
    taken from the pre-softmax scores in float64, so that a head that attends elsewhere by hundreds of nats still has a
    finite score. BOS is a key but no query; of a word of several tokens only the last is one.

    Args:
        scores_PNTT: pre-softmax attention scores; entries after the query are not read.
        prompts: the prompts they belong to.

    Returns:
        float64 [P, N]; lower is a better match.

    Source:
        "The Self-Hating Attention Head" (2025), with its BOS fallback.
    """
    expected_PTT = torch.from_numpy(prompts.expected_PTT()).to(scores_PNTT.device)
    read_TT = reach(expected_PTT.shape[1], device=scores_PNTT.device)

    def log_mass(scores_NTT: torch.Tensor, keep_TT: torch.Tensor) -> torch.Tensor:
        return torch.logsumexp(scores_NTT.masked_fill(~keep_TT, -torch.inf), dim=-1)

    queries_PT = prompts.queries_PT()
    found = []
    # One at a time, for long prompts' sake.
    for place, (scores_NTT, expected_TT) in enumerate(zip(scores_PNTT, expected_PTT, strict=True)):
        scores_NTT = scores_NTT.double()
        surprisal_NT = log_mass(scores_NTT, read_TT) - log_mass(scores_NTT, expected_TT)
        own = slice(1, None) if queries_PT is None else torch.from_numpy(queries_PT[place]).to(scores_PNTT.device)
        found.append(surprisal_NT[:, own].mean(dim=-1))
    return torch.stack(found)


def masked_attention(scores_PNTT: torch.Tensor, prompts: CategoryPrompts) -> torch.Tensor:
    """Score some heads on some prompts by the mean of the attention that the expected keys get.

    The mean is over all expected pairs (query, key) of a prompt, M as in `semantic_category_scores` but without its BOS
    fallback: attention on the only partner counts as much as on each of several, and queries without one do not count.

    Args:
        scores_PNTT: pre-softmax attention scores; entries after the query are not read.
        prompts: the prompts they belong to.

    Returns:
        float64 [P, N], higher = better; NaN for a prompt without such pairs.

    Source:
        Recreation notebook of "The Self-Hating Attention Head", section 2.3.
    """
    expected_PTT = prompts.expected_PTT()
    expected_PTT[:, :, 0] = False
    marked_PTT = torch.from_numpy(expected_PTT).to(scores_PNTT.device)
    mass_PN = (causal_pattern(scores_PNTT) * marked_PTT[:, None]).sum(dim=(2, 3))
    return mass_PN / marked_PTT.sum(dim=(1, 2))[:, None]


def mean_and_std(scores_P: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation (divisor P) over prompts."""
    return float(scores_P.mean()), float(scores_P.std())
