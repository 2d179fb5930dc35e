"""From what runs found to the published figures: pure functions, one for each group of figures.

Each returns its measurements by figure and variant. Where a model cannot show a figure, the reason stands in its place.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import stats

from qkatlas.jobs.reproduce.published import DEFINED, Facts
from qkatlas.jobs.reproduce.verdicts import Measured, absent
from qkatlas.jobs.similarity.answer import LEAST
from qkatlas.pipeline.circuit.similarity import landmarks
from qkatlas.pipeline.models.head import Head

_Found = dict[tuple[str, str], Measured]

_BINS_TOGETHER = 3
"""Bins of 0.01 that make one of the published 0.03; both begin at -1."""

_LEAST_CHANGE = 0.01
"""Nats below which an ablation's change counts as this much: the plot shows no less."""


def all_absent(facts: Facts, group: str, reason: str) -> _Found:
    """Every figure of a group, not measured for one reason."""
    return {
        (figure.figure, variant): absent(reason)
        for figure in facts.figures
        if figure.figure.startswith(f"{group}.")
        for variant in figure.variants
    }


def semantic(facts: Facts, scores: Mapping[Head, float]) -> _Found:
    """Order of the Semantic Category Scores.

    Args:
        facts: with the published scores.
        scores: every head's mean score, nats; lower = better.
    """
    published = np.array(facts.data["semantic_category_scores"])
    heads = [Head(layer, head) for layer in range(published.shape[0]) for head in range(published.shape[1])]
    if set(heads) != set(scores):
        correlation = absent("the model's heads are not GPT-2 small's 12 layers of 12")
    elif len(set(scores.values())) == 1:
        correlation = absent("all scores are alike")
    else:
        value = stats.spearmanr(published.ravel(), [scores[head] for head in heads]).statistic
        correlation = Measured(value=float(value))
    negated = {head: -score for head, score in scores.items()}
    return {
        ("semantic.correlation", DEFINED): correlation,
        ("semantic.lowest", DEFINED): _place(Head.parse(facts.head), negated, scores, "lowest"),
        ("semantic.highest", DEFINED): _place(Head.parse(facts.data["highest"]), scores, scores, "highest"),
    }


def _place(head: Head, keys: Mapping[Head, float], values: Mapping[Head, float], end: str) -> Measured:
    """Place of a head among all, the largest key first; equal heads share the last of their places."""
    if head not in keys:
        return absent(f"the model has no head {head}")
    place = sum(key >= keys[head] for key in keys.values())  # a head that stands out has no equal
    first = min(keys, key=lambda one: (-keys[one], one))
    text = f"{place} of {len(keys)} ({head} {values[head]:.4g}; {end}: {first} {values[first]:.4g})"
    return Measured(value=place, text=text)


def ablation(medians: Mapping[str, float]) -> _Found:
    """Medians of the head's Semantic Category Score with components ablated.

    Args:
        medians: component -> median over prompts, nats; `none` is the baseline.
    """
    found = {(f"ablation.{name}", DEFINED): Measured(value=medians[name]) for name in ("none", *_MATTER, *_DO_NOT)}
    change = {name: medians[name] - medians["none"] for name in (*_MATTER, *_DO_NOT)}
    least = min(change[name] for name in _MATTER)
    most = max(abs(change[name]) for name in _DO_NOT)
    listed = ", ".join(f"{name} {value:+.3f}" for name, value in change.items())
    claim = Measured(value=least / max(most, _LEAST_CHANGE), note=f"changes in nats: {listed}")
    return {**found, ("ablation.claim", DEFINED): claim}


_MATTER, _DO_NOT = ("embed", "mlp_0", "mlp_0_residual"), ("pos_embed", "attn_0")


@dataclass(frozen=True, kw_only=True)
class SpectrumFigures:
    """What the spectrum's rows need of one variant of the weights.

    Attributes:
        max_sym: largest singular value of the symmetric part.
        max_skew: of the skew-symmetric part.
        negative: negatives among the H eigenvalues largest by magnitude.
        all_negative: negatives among all nonzero eigenvalues.
        nonzero: all nonzero eigenvalues.
        null_mean: mean of `negative` over random heads with the same singular values.
        null_std: its standard deviation over them.
    """

    max_sym: float
    max_skew: float
    negative: int
    all_negative: int
    nonzero: int
    null_mean: float
    null_std: float


def spectrum(variants: Mapping[str, SpectrumFigures]) -> _Found:
    """Singular values and the count of negative eigenvalues, beside its null.

    Args:
        variants: variant -> figures of its weights.
    """
    found: _Found = {}
    for variant, own in variants.items():
        null = f"random heads: {own.null_mean:.1f} +- {own.null_std:.2f}"
        share = own.all_negative / own.nonzero if own.nonzero else 0.0
        found |= {
            ("spectrum.max_sym", variant): Measured(value=own.max_sym),
            ("spectrum.max_skew", variant): Measured(value=own.max_skew),
            ("spectrum.negative", variant): Measured(value=own.negative, note=null),
            ("spectrum.negative_share", variant): Measured(
                value=share, text=f"{own.all_negative} of {own.nonzero}, {share:.4g}"
            ),
            ("spectrum.null", variant): Measured(
                value=own.null_mean, text=f"{own.null_mean:.2f} +- {own.null_std:.2f}", note=f"the head: {own.negative}"
            ),
        }
    return found


def top10(word: str, variant: str, published: Sequence[str], lists: Mapping[str, Sequence[str]]) -> _Found:
    """Overlap of a word's ten best keys with the published ones.

    Args:
        word: the query as published.
        variant: form of the score.
        published: the published keys; `_` stands for a leading space.
        lists: spelling of the query -> texts of its ten best keys; the better one counts.
    """
    expected = Counter(map(bare, published))
    common = {query: (expected & Counter(map(bare, keys))).total() for query, keys in lists.items()}
    best = max(common, key=lambda query: common[query])
    others = "; ".join(f"query {query!r}: {common[query]} ({', '.join(keys)})" for query, keys in lists.items())
    text = f"{common[best]} of {len(published)} (query {best!r})"
    return {(f"top10.{word}", variant): Measured(value=common[best], text=text, note=others)}


def bare(text: str) -> str:
    """A token's text without spaces around it, in one case; `_` at its beginning is a space as the post prints it."""
    return text.removeprefix("_").strip().casefold()


def similarity(variant: str, curve: pa.Table) -> _Found:
    """Crossing and peak of a similarity curve, in the published bins and units.

    Args:
        variant: whose self score was subtracted.
        curve: columns cosine_low, cosine_high, count, self_pairs and mean (nats, null in empty bins), in bins of 0.01
            from -1.
    """
    names = [f"similarity.{name}" for name in ("crossing", "peak", "peak_of_text", "height")]
    count, own = (_together(curve[name].to_numpy()) for name in ("count", "self_pairs"))
    mean_B = np.nan_to_num(curve["mean"].to_numpy(zero_copy_only=False).astype(np.float64))
    sums = _together(mean_B * curve["count"].to_numpy())
    mean = np.where(count > 0, sums / np.where(count > 0, count, 1), np.nan)
    # The last published bin would end at 1.01.
    edges = np.asarray(-1 + 0.01 * _BINS_TOGETHER * np.arange(len(count) + 1), np.float64)
    found = landmarks(edges, count, own, mean, least=LEAST)
    if found is None:
        return {(name, variant): absent(f"no bin holds {LEAST} pairs of two tokens") for name in names}
    crossing = Measured(value=found.crossing) if found.crossing is not None else Measured(
        value=math.inf, text="never", note="the mean does not rise through 0 before its peak"
    )  # fmt: skip
    peak = Measured(value=found.peak)
    height = Measured(value=found.height / math.log(2))
    return dict(zip([(name, variant) for name in names], (crossing, peak, peak, height), strict=True))


def _together(values_B: np.ndarray) -> np.ndarray:
    """Sums over the bins that make one of the published."""
    return np.add.reduceat(values_B, np.arange(0, len(values_B), _BINS_TOGETHER))


def self_rank(variant: str, ranks_V: np.ndarray) -> _Found:
    """Own ranks over the vocabulary.

    Args:
        variant: form of the score.
        ranks_V: every token's self_rank.
    """
    return {
        ("self_rank.mean", variant): Measured(value=float(ranks_V.mean()), text=f"{ranks_V.mean():.0f}"),
        **{
            (f"self_rank.top{top}", variant): Measured(value=float((ranks_V <= top).mean())) for top in (128, 1024)
        },
    }  # fmt: skip


def steering(variant: str, alphas: Sequence[float], points: Mapping[float, Mapping[str, Any]]) -> _Found:
    """Whether the own rank falls with alpha, and look-alikes stay preferred.

    Args:
        variant: form of the steering.
        alphas: the published ones, descending.
        points: alpha -> row of `steering.parquet`.
    """
    ranks = [points[alpha]["self_rank_mean"] for alpha in alphas]
    kin = [points[alpha]["kin_z_mean"] for alpha in alphas]
    steps = sum(after < before for before, after in pairwise(ranks))
    known = [value for value in kin if value is not None]
    listed = ", ".join(f"{alpha:g}: {rank:.0f}" for alpha, rank in zip(alphas, ranks, strict=True))
    return {
        ("steering.monotone", variant): Measured(
            value=steps, text=f"{steps} of {len(ranks) - 1}", note=f"mean own rank by alpha: {listed}"
        ),
        ("steering.kin", variant): (
            Measured(value=min(known)) if len(known) == len(kin) else absent("some rows do not vary")
        ),
    }


def clusters(variant: str, counts: Sequence[int], best: int) -> _Found:
    """Communities of the most frequent tokens.

    Args:
        variant: whether rows are queries or keys.
        counts: communities of two tokens or more that each restart of Leiden found.
        best: number of the restart of the highest quality.
    """
    note = f"{len(counts)} restarts: {min(counts)} to {max(counts)}"
    return {("clusters.count", variant): Measured(value=counts[best], note=note)}


def known_heads(facts: Facts, columns: Mapping[str, Mapping[Head, float]]) -> _Found:
    """Heads that others have named, by the behaviour columns.

    Args:
        facts: with the names.
        columns: behaviour column -> its value for every head.
    """
    found: _Found = {}
    for kind, known in facts.data["known_heads"].items():
        named = [Head.parse(name) for name in known["heads"]]
        needed = [known["column"], *([known["less"]] if known["less"] else [])]
        key = f"heads.{kind}", DEFINED
        if any(name not in columns for name in needed):
            found[key] = absent("the model reads too few tokens for these behaviours")
            continue
        heads = columns[known["column"]]
        if missing := [str(head) for head in named if head not in heads]:
            found[key] = absent(f"the model has no head {', '.join(missing)}")
            continue
        less = columns[known["less"]] if known["less"] else dict.fromkeys(heads, 0.0)
        scores = {head: heads[head] - less[head] for head in heads}
        places = {head: sum(score >= scores[head] for score in scores.values()) for head in named}
        count = sum(place <= known["among"] for place in places.values())
        listed = ", ".join(f"{head} {scores[head]:.3f} (place {place})" for head, place in places.items())
        found[key] = Measured(value=count, text=f"{count} of {len(named)}", note=listed)
    return found


def notebook_place(facts: Facts, attention: Mapping[Head, float]) -> Measured:
    """Place of the head by the notebook's own score.

    Args:
        facts: with the head.
        attention: every head's mean attention on expected keys.
    """
    return _place(Head.parse(facts.head), attention, attention, "highest")
