"""A head's decomposition beside its real attention on held-out text.

BOS keeps its own share: all patterns are over the other keys, whose shares are made to sum to 1. Distances are total
variation, half the sum of absolute differences; divergences are Kullback and Leibler's of the real pattern from the
other, in nats, with the terms that make them 0 at least where the other does not sum to 1.

Shapes: B windows, T positions, H width of a head, R destinations of a window.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from qkatlas.pipeline.models.blocks import for_blocks
from qkatlas.pipeline.models.layers import capped
from qkatlas.pipeline.positions.means import HeadMeans
from qkatlas.pipeline.positions.windows import Windows

Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

DESTINATIONS = 128
"""Destinations of a window that are compared, spread evenly; all where it has no more."""

PATTERNS = ("factorised", "fixed", "denominator", "position", "content", "uniform")
"""What is compared with real attention:

- `factorised`: p f / sum p f, position and content each of the destination's own query;
- `fixed`: the same with the one query that stands for all;
- `denominator`: that with sum p f at each destination replaced by its mean over the other windows;
- `position`: p alone, of the query that stands for all;
- `content`: f / sum f alone, of the destination's own query;
- `uniform`: all keys alike, what nothing is known gives.
"""

Content = Callable[[int, torch.Tensor, torch.Tensor, IntArray, torch.Tensor], torch.Tensor]
"""Content factors of the keys of a window, as a function of: the window's number; queries [R, H]; their positional
patterns [R, T]; where they stand [R]; the positional parts of their scores [R, T]. Gives ln f [R, T], in nats."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What was measured, each array float64 [B, R].

    Attributes:
        destination_R: where the queries stand.
        distance, divergence: by the names of PATTERNS.
        bos_share: real attention on BOS.
        width: 1 / sum p^2 of real attention.
        equal_share: real attention on earlier keys of the destination's own token; NaN where there is none.
        denominator: sum p f of the query that stands for all.
    """

    destination_R: IntArray
    distance: dict[str, Float64Array]
    divergence: dict[str, Float64Array]
    bos_share: Float64Array
    width: Float64Array
    equal_share: Float64Array
    denominator: Float64Array


def destinations(length: int) -> IntArray:
    """Where the queries stand that are compared; each has two keys behind BOS at least."""
    return np.unique(np.linspace(2, length - 1, DESTINATIONS).round().astype(np.int64))


def compare(means: HeadMeans, content: Content, text: Windows, *, threads: int) -> Comparison:
    """Compare the patterns that follow from a decomposition with the real ones.

    Args:
        means: of the head.
        content: content factors of the windows' keys.
        text: two windows or more, of three positions or more.
        threads: threads to use; the result does not depend on it.
    """
    n_R = destinations(text.tokens_BT.shape[1])
    read_RT = means.read(n_R)
    shape = len(text.tokens_BT), len(n_R)
    numbers = ("bos_share", "width", "equal_share", "denominator")
    found = {name: np.full(shape, np.nan) for name in numbers}
    logs: dict[str, torch.Tensor] = {
        name: torch.empty((*shape, means.length), dtype=torch.float64) for name in ("real", *PATTERNS)
    }

    def log_pattern(scores_RT: torch.Tensor, cap: float | None = means.cap) -> torch.Tensor:
        return capped(scores_RT, cap).masked_fill(~read_RT, -torch.inf).log_softmax(dim=1)

    def of_window(rows: slice) -> None:
        b = rows.start
        query_RH, key_TH = text.query_BTH[b][torch.from_numpy(n_R)], text.key_BTH[b]
        real_RT = means.scores(query_RH, n_R, key_TH)
        logs["real"][b] = log_pattern(real_RT)
        with_bos_RT = read_RT.clone()
        with_bos_RT[:, 0] = torch.from_numpy(n_R < (means.window or means.length))
        found["bos_share"][b] = capped(real_RT, means.cap).masked_fill(~with_bos_RT, -torch.inf).softmax(1)[:, 0]
        real_RT = logs["real"][b].exp()
        found["width"][b] = 1 / real_RT.square().sum(dim=1)
        token_T = text.tokens_BT[b]
        equal_RT = torch.from_numpy((token_T[n_R][:, None] == token_T) & (np.arange(len(token_T)) < n_R[:, None]))
        equal_RT &= read_RT
        some_R = equal_RT.any(dim=1).numpy()
        found["equal_share"][b][some_R] = (real_RT * equal_RT).sum(dim=1).numpy()[some_R]

        logs["uniform"][b] = log_pattern(torch.zeros_like(real_RT), None)
        kappa_RT = means.kappa(query_RH, n_R)
        ln_f_RT = content(b, query_RH, log_pattern(kappa_RT).exp(), n_R, kappa_RT)
        logs["factorised"][b] = log_pattern(kappa_RT + ln_f_RT)
        logs["content"][b] = log_pattern(ln_f_RT, None)

        fixed_RH = means.queries_at(n_R)
        kappa_RT = means.kappa(fixed_RH, n_R)
        logs["position"][b] = log_pattern(kappa_RT)
        ln_f_RT = content(b, fixed_RH, logs["position"][b].exp(), n_R, kappa_RT)
        logs["fixed"][b] = log_pattern(kappa_RT + ln_f_RT)
        sums = [
            capped(scores_RT, means.cap).masked_fill(~read_RT, -torch.inf).logsumexp(dim=1)
            for scores_RT in (kappa_RT + ln_f_RT, kappa_RT)
        ]
        found["denominator"][b] = (sums[0] - sums[1]).exp()

    for_blocks(shape[0], of_window, threads, 1)
    others_BR = (found["denominator"].sum(axis=0) - found["denominator"]) / (shape[0] - 1)
    ratio_BR = torch.from_numpy(np.log(found["denominator"]) - np.log(others_BR))
    logs["denominator"] = logs["fixed"] + ratio_BR[:, :, None]
    return Comparison(
        destination_R=n_R,
        distance={name: _distance(logs["real"], logs[name]) for name in PATTERNS},
        divergence={name: _divergence(logs["real"], logs[name]) for name in PATTERNS},
        **found,
    )


def _distance(real_BRT: torch.Tensor, other_BRT: torch.Tensor) -> Float64Array:
    found: Float64Array = ((real_BRT.exp() - other_BRT.exp()).abs().sum(dim=2) / 2).numpy()
    return found


def _divergence(real_BRT: torch.Tensor, other_BRT: torch.Tensor) -> Float64Array:
    share_BRT = real_BRT.exp()
    terms_BRT = (share_BRT * (real_BRT - other_BRT)).masked_fill(share_BRT == 0, 0.0)
    found: Float64Array = (terms_BRT.sum(dim=2) - share_BRT.sum(dim=2) + other_BRT.exp().sum(dim=2)).numpy()
    return found


def comparison_columns(comparison: Comparison) -> dict[str, float | None]:
    """A head's columns of error, and what else of its real attention is a column.

    Args:
        comparison: what was measured.

    Returns:
        `tv_*` (median over windows and destinations), `tv_*_p90` and `kl_*` (mean) of each pattern; `bos_share` (mean),
        `real_width` (median), `equal_share` (mean, None where no token comes twice); `denominator_mean`, and its
        coefficients of variation over windows at one destination (`_cv_between`) and over the destinations of one
        window (`_cv_within`), each a mean over the destinations from a quarter of the window on, or over the windows.
    """
    found: dict[str, float | None] = {}
    for name in PATTERNS:
        found[f"tv_{name}"] = float(np.median(comparison.distance[name]))
        found[f"tv_{name}_p90"] = float(np.quantile(comparison.distance[name], 0.9))
        found[f"kl_{name}"] = float(comparison.divergence[name].mean())
    found["bos_share"] = float(comparison.bos_share.mean())
    found["real_width"] = float(np.median(comparison.width))
    equal = comparison.equal_share[~np.isnan(comparison.equal_share)]
    found["equal_share"] = float(equal.mean()) if equal.size else None
    late_R = comparison.destination_R >= comparison.destination_R[-1] // 4
    d_BR = comparison.denominator[:, late_R]
    found["denominator_mean"] = float(d_BR.mean())
    found["denominator_cv_between"] = float((d_BR.std(axis=0) / d_BR.mean(axis=0)).mean())
    found["denominator_cv_within"] = float((d_BR.std(axis=1) / d_BR.mean(axis=1)).mean())
    return found
