"""Every row of a reproduction on findings made by hand: some that must come out reproduced, some that must differ."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from qkatlas.jobs.reproduce import measures
from qkatlas.jobs.reproduce.features import of_features, of_heads, of_share
from qkatlas.jobs.reproduce.first_layer import of_rows, of_scale
from qkatlas.jobs.reproduce.known_tasks import of_prefix_rows, of_task_rows
from qkatlas.jobs.reproduce.published import DEFINED, PUBLISHED, facts
from qkatlas.jobs.reproduce.verdicts import DIFFERS, NOT_COMPARABLE, REPRODUCED, Measured, verdict
from qkatlas.pipeline.models.head import Head

FACTS = facts()
VARIANTS = (DEFINED, PUBLISHED)
SCORES = {
    Head(layer, head): score
    for layer, row in enumerate(FACTS.data["semantic_category_scores"])
    for head, score in enumerate(row)
}
MEDIANS = {"none": 0.655, "pos_embed": 0.63, "attn_0": 0.665, "mlp_0_residual": 0.9, "mlp_0": 1.745, "embed": 2.09}
L1H5 = Head(1, 5)


def semantic(**changes: float) -> dict[Any, Measured]:
    return measures.semantic(FACTS, {**SCORES, **{Head.parse(name): score for name, score in changes.items()}})


def shuffled() -> dict[Any, Measured]:
    order = np.random.default_rng(0).permutation(list(SCORES.values()))
    return measures.semantic(FACTS, dict(zip(SCORES, order.tolist(), strict=True)))


def ablation(**changes: float) -> dict[Any, Measured]:
    return measures.ablation({**MEDIANS, **changes})


def spectrum(**changes: Any) -> dict[Any, Measured]:
    known = {
        "max_sym": 1.86109, "max_skew": 1.34726, "negative": 33, "all_negative": 64, "nonzero": 128,
        "null_mean": 32.1, "null_std": 0.6,
    }  # fmt: skip
    return measures.spectrum({variant: measures.SpectrumFigures(**{**known, **changes}) for variant in VARIANTS})


def top10(word: str, changed: int) -> dict[Any, Measured]:
    """The published keys as a model's tokens, some of them replaced, and a worse list for the other spelling."""
    keys = [f" {key.removeprefix('_').upper()}" for key in FACTS.data["top10"][word]]
    lists = {word: [*["other"] * changed, *keys[changed:]], f" {word}": ["other"] * 10}
    found: dict[Any, Measured] = {}
    for variant in VARIANTS:
        found |= measures.top10(word, variant, FACTS.data["top10"][word], lists)
    return found


def curve(crossing: float, peak: float, bits: float) -> dict[Any, Measured]:
    """A curve that rises from below 0 through a crossing to a peak, in nats, and falls behind it."""
    low = np.round(np.arange(-1, 1, 0.01), 2)
    centre = low + 0.005
    height = bits * math.log(2)
    rising = height * (centre - crossing) / (peak - crossing)
    mean = np.where(centre <= peak, rising, height - 8 * (centre - peak))
    count = np.full(200, 1000)
    own = np.r_[np.zeros(199, int), 500]
    mean[-1] *= 0.5  # half of the last bin's pairs are of a token with itself
    table = pa.table({"cosine_low": low, "cosine_high": low + 0.01, "count": count, "self_pairs": own, "mean": mean})
    return measures.similarity(DEFINED, table) | measures.similarity(PUBLISHED, table)


def self_rank(within128: float, within1024: float, mean: float) -> dict[Any, Measured]:
    """10000 tokens with these shares, the others ranked alike so that the mean comes out."""
    first, second = round(1e4 * within128), round(1e4 * (within1024 - within128))
    rest = 10_000 - first - second
    others = (mean * 1e4 - 100 * first - 1000 * second) / rest
    ranks = np.r_[np.full(first, 100.0), np.full(second, 1000.0), np.full(rest, others)]
    return measures.self_rank(DEFINED, ranks) | measures.self_rank(PUBLISHED, ranks)


def steering(ranks: list[float], kin: list[float | None]) -> dict[Any, Measured]:
    alphas = FACTS.data["steering_alphas"]
    points = {
        alpha: {"self_rank_mean": rank, "kin_z_mean": z} for alpha, rank, z in zip(alphas, ranks, kin, strict=True)
    }
    return measures.steering(DEFINED, alphas, points) | measures.steering(PUBLISHED, alphas, points)


FALLING, KIN = [40e3, 9e3, 500.0, 20.0, 3.0], [1.0, 1.1, 1.2, 0.9, 0.8]


def clusters(*counts: int) -> dict[Any, Measured]:
    return measures.clusters(DEFINED, counts, 0) | measures.clusters(PUBLISHED, counts, 0)


def heads(**behaviours: float) -> dict[Any, Measured]:
    """Heads without behaviours, but those named, of which every column has the given value."""
    columns = {
        name: {head: 0.001 * head.layer + 0.0001 * head.index for head in SCORES}
        for name in ("induction_score", "previous_token_score", "duplicate_token_score", "prefix_induction_score_4")
    }
    for name, value in behaviours.items():
        for column in columns.values():
            column[Head.parse(name)] = value
    columns["prefix_induction_score_1"] = dict.fromkeys(SCORES, 0.0)
    return measures.known_heads(FACTS, columns)


NAMED = {kind: FACTS.data["known_heads"][kind]["heads"] for kind in FACTS.data["known_heads"]}


def notebook(printed: float, own: float) -> dict[Any, Measured]:
    attention = {head: 0.001 * place for place, head in enumerate(sorted(SCORES))} | {L1H5: own}
    return {
        ("notebook.score", PUBLISHED): Measured(value=printed),
        ("notebook.place", DEFINED): measures.notebook_place(FACTS, attention),
    }


Case = Callable[[], dict[Any, Measured]]


def first_layer(lost: str = "", width: float = 50.0, error: float = 0.05) -> dict[Any, Measured]:
    """Heads of layer 0 in their published classes but for some, all of one width and error."""
    named = {name: group["class"] for group in FACTS.data["first_layer"].values() for name in group["heads"]}
    rows = {
        Head(0, head): {
            "class": "none" if f"L0H{head}" in lost.split() else named.get(f"L0H{head}", "none"),
            "class_margin": 0.1, "width": width, "tv_factorised": error,
        }
        for head in range(12)
    }  # fmt: skip
    return {key: value for variant in (DEFINED, PUBLISHED) for key, value in of_rows(FACTS, variant, rows).items()}


def features(candidates: int = 14, lost: int = 0, share: float = 0.49) -> dict[Any, Measured]:
    """Heads of which so many are candidates, all that are named but some among them, and the published feature's."""
    named = [Head.parse(name) for name in FACTS.data["monosemantic_heads"]]
    chosen = named[lost:] + [head for head in SCORES if head not in named]
    rows = {head: {"monosemantic_candidate": head in chosen[:candidates]} for head in SCORES}
    return of_heads(FACTS, rows) | of_share(FACTS, [0.0] * 9 + [share, 0.1, 0.1])


def task_heads(best: int = 2, succession: bool = True) -> dict[Any, Measured]:
    """Layer 10 with one head that stands out in both tasks, and L9H1 on days."""
    rows = [
        {"task": task, "layer": 10, "head": head, "effect": 0.1 + (head == best), "specific": 0.0 + (head == best)}
        for task in ("integer-copying", "url")
        for head in range(12)
    ]
    rows.append({"task": "succession-days", "layer": 9, "head": 1, "effect": 1, "specific": 1, "serves": succession})
    return of_task_rows(rows)


def prefixes(
    long: float = 0.5, short: float = 0.1, before: float = 0.6, after: float = 0.1, short_after: float = 0.4
) -> dict[Any, Measured]:
    """Attention of L5H1 and L5H5 that rises by some values after prefixes of one token, and corrupted prefixes."""
    rows = [
        {
            "layer": 5,
            "head": head,
            "length": length,
            "attention": rise * (length > 1),
            "dla_centred": rise * (length > 1),
        }
        for head, rise in ((1, long), (5, short))
        for length in range(1, 10)
    ]
    corrupted = [
        {"layer": 5, "head": head, "source": source, "n": 9, "before": before, "after": last * (source == "text")}
        for head, last in ((1, after), (5, short_after))
        for source in ("synthetic", "text")
    ]
    return of_prefix_rows(rows, corrupted)


CASES: dict[str, tuple[Case, Case]] = {
    "semantic.correlation": (semantic, shuffled),
    "semantic.lowest": (semantic, lambda: semantic(L3H4=0.5)),
    "semantic.highest": (semantic, lambda: semantic(L0H5=21.3)),
    **{
        f"ablation.{name}": (ablation, lambda name=name: ablation(**{name: MEDIANS[name] * 1.5}))  # type: ignore[misc]
        for name in MEDIANS
    },
    "ablation.claim": (ablation, lambda: ablation(attn_0=0.75)),
    "spectrum.max_sym": (spectrum, lambda: spectrum(max_sym=1.8632)),
    "spectrum.max_skew": (spectrum, lambda: spectrum(max_skew=1.3461)),
    "spectrum.negative": (spectrum, lambda: spectrum(negative=35)),
    "spectrum.negative_share": (spectrum, lambda: spectrum(all_negative=70)),
    "spectrum.null": (spectrum, lambda: spectrum(null_mean=33.0)),
    **{
        f"top10.{word}": (lambda word=word: top10(word, 3), lambda word=word: top10(word, 4))  # type: ignore[misc]
        for word in FACTS.data["top10"]
    },
    "similarity.crossing": (lambda: curve(0.9, 0.935, 2.75), lambda: curve(0.8, 0.935, 2.75)),
    "similarity.peak": (lambda: curve(0.9, 0.935, 2.75), lambda: curve(0.7, 0.87, 2.75)),
    "similarity.peak_of_text": (lambda: curve(0.9, 0.965, 2.75), lambda: curve(0.7, 0.87, 2.75)),
    "similarity.height": (lambda: curve(0.9, 0.935, 3.2), lambda: curve(0.9, 0.935, 2.75 / math.log(2))),
    "self_rank.mean": (lambda: self_rank(0.035, 0.15, 16e3), lambda: self_rank(0.035, 0.15, 49e3)),
    "self_rank.top128": (lambda: self_rank(0.1, 0.15, 16e3), lambda: self_rank(0.01, 0.15, 16e3)),
    "self_rank.top1024": (lambda: self_rank(0.035, 0.4, 16e3), lambda: self_rank(0.035, 0.5, 16e3)),
    "steering.monotone": (lambda: steering(FALLING, KIN), lambda: steering([*FALLING[:4], 21.0], KIN)),
    "steering.kin": (lambda: steering(FALLING, KIN), lambda: steering(FALLING, [1, 1, 1, 1, 0.4])),
    "clusters.count": (lambda: clusters(20, 9), lambda: clusters(33, 16)),
    "heads.induction": (
        lambda: heads(**dict.fromkeys(NAMED["induction"][:4], 0.5)),
        lambda: heads(**dict.fromkeys(NAMED["induction"][:3], 0.5)),
    ),
    "heads.long_prefix": (lambda: heads(L5H1=0.5), heads),
    "heads.previous_token": (lambda: heads(L4H11=0.5), lambda: heads(L4H11=0.5, L2H2=0.6)),
    "heads.duplicate_token": (lambda: heads(L0H1=0.5, L3H0=0.5), lambda: heads(L3H0=0.5)),
    "heads.detokenization": (lambda: first_layer(lost="L0H3"), lambda: first_layer(lost="L0H3 L0H4")),
    "heads.contextual": (lambda: first_layer(lost="L0H2 L0H10"), lambda: first_layer(lost="L0H0 L0H2 L0H10")),
    "heads.duplicate": (first_layer, lambda: first_layer(lost="L0H5")),
    "positions.width": (lambda: first_layer(width=30.0), lambda: first_layer(width=24.0)),
    "positions.layer_norm": (lambda: of_scale(0.1, 0.17, 0.2), lambda: of_scale(0.1, 0.18, 0.2)),
    "positions.error": (lambda: first_layer(error=0.09), lambda: first_layer(error=0.11)),
    "features.monosemantic": (lambda: features(28), lambda: features(6)),
    "features.named": (lambda: features(lost=2), lambda: features(lost=3)),
    "features.share": (lambda: features(share=0.4949), lambda: features(share=0.4951)),
    "heads.successor": (task_heads, lambda: task_heads(succession=False)),
    "tasks.two_jobs": (task_heads, lambda: task_heads(best=3)),
    "prefix.attention": (prefixes, lambda: prefixes(long=0.15)),
    "prefix.dla": (prefixes, lambda: prefixes(short=0.45)),
    "prefix.long_before": (prefixes, lambda: prefixes(before=0.71)),
    "prefix.long_after": (prefixes, lambda: prefixes(after=0.16)),
    "prefix.short_after": (prefixes, lambda: prefixes(short_after=0.29)),
    "notebook.score": (lambda: notebook(0.18772, 0.5), lambda: notebook(0.1893, 0.5)),
    "notebook.place": (lambda: notebook(0, 0.1395), lambda: notebook(0, 0.1385)),
}
"""Findings that reproduce a figure, and findings that do not."""


def test_every_measured_figure_has_a_case() -> None:
    assert set(CASES) == {figure.figure for figure in FACTS.figures if figure.rule != "unmeasured"}


@pytest.mark.parametrize("name", CASES)
def test_each_row_comes_out_as_it_must(name: str) -> None:
    figure = next(one for one in FACTS.figures if one.figure == name)
    for case, expected in zip(CASES[name], (REPRODUCED, DIFFERS), strict=True):
        found = case()
        for variant in figure.variants:
            assert verdict(figure, found[name, variant]) == expected, (variant, found[name, variant])


def test_what_a_model_does_not_have_is_not_compared() -> None:
    small = {Head(layer, head): 1.0 + head for layer in range(2) for head in range(6)}
    found = measures.semantic(FACTS, small)
    assert found["semantic.correlation", DEFINED].value is None
    assert found["semantic.lowest", DEFINED].value == 12  # equal heads share the last of their places
    assert "no head L4H11" in found["semantic.highest", DEFINED].note
    known = measures.known_heads(FACTS, {"induction_score": dict.fromkeys(small, 0.5)})
    assert "no head L5H1" in known["heads.induction", DEFINED].note
    assert "too few tokens" in known["heads.previous_token", DEFINED].note
    assert steering(FALLING, [1, 1, None, 1, 1])["steering.kin", DEFINED].value is None


def test_heads_that_are_all_alike_reproduce_no_place_and_have_no_correlation() -> None:
    alike = dict.fromkeys(SCORES, 1.0)
    found = measures.semantic(FACTS, alike)
    assert found["semantic.correlation", DEFINED].note == "all scores are alike"
    columns = [known["column"] for known in FACTS.data["known_heads"].values()] + ["prefix_induction_score_1"]
    found |= measures.known_heads(FACTS, dict.fromkeys(columns, alike))
    found["notebook.place", DEFINED] = measures.notebook_place(FACTS, alike)
    judged = [one for one in FACTS.figures if (one.figure, DEFINED) in found and one.figure != "semantic.correlation"]
    assert len(judged) == 7
    for figure in judged:
        assert verdict(figure, found[figure.figure, DEFINED]) == DIFFERS, figure.figure


def test_a_curve_that_never_rises_through_zero_differs() -> None:
    crossing = curve(-2.0, 0.935, 2.75)["similarity.crossing", DEFINED]
    assert crossing.text == "never"
    figure = next(one for one in FACTS.figures if one.figure == "similarity.crossing")
    assert verdict(figure, crossing) == DIFFERS


def test_bins_without_pairs_leave_no_curve() -> None:
    empty = pa.table(
        {
            "cosine_low": np.arange(200) / 100 - 1, "cosine_high": np.arange(1, 201) / 100 - 1,
            "count": np.zeros(200, int), "self_pairs": np.zeros(200, int), "mean": pa.nulls(200, pa.float64()),
        }
    )  # fmt: skip
    figure = next(one for one in FACTS.figures if one.figure == "similarity.peak")
    assert verdict(figure, measures.similarity(DEFINED, empty)["similarity.peak", DEFINED]) == NOT_COMPARABLE


def test_keys_are_compared_by_bare_text_and_as_often_as_they_stand() -> None:
    found = measures.top10("red", DEFINED, ["Green", "_green", "Blue"], {"red": [" GREEN", " blue", "Blue"]})
    assert found["top10.red", DEFINED].value == 2


def test_dictionaries_of_some_heads_or_none_are_not_compared() -> None:
    some = {Head(7, head): {"monosemantic_candidate": True} for head in range(12)}
    assert "are of 12 heads" in of_heads(FACTS, some)["features.monosemantic", DEFINED].note
    assert of_share(FACTS, None)["features.share", DEFINED].value is None
    assert of_share(FACTS, [1.0])["features.share", DEFINED].value is None
    without = of_features(FACTS, None)
    assert {figure for figure, _ in without} == {"features.monosemantic", "features.named", "features.share"}
    assert all("--features SAE_DIR" in one.note for one in without.values())
