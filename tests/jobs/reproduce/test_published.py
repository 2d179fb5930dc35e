"""The published figures: the data file is whole, and every rule draws its line where it says."""

from __future__ import annotations

import math

import pytest

from qkatlas.jobs.reproduce.published import DEFINED, PUBLISHED, RULES, Figure, facts, frequent_tokens
from qkatlas.jobs.reproduce.verdicts import DIFFERS, NOT_COMPARABLE, REPRODUCED, Measured, absent, table, verdict
from qkatlas.pipeline.models.head import Head


def figure(rule: str, limit: float, published: float | None = 2.0) -> Figure:
    return Figure(
        figure="a.b", what="", sources=("post",), published=published, published_text="", rule=rule, limit=limit,
        why="", variants=(DEFINED,),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "limit", "inside", "outside"),
    [
        ("within", 0.5, [1.5, 2.0, 2.5], [1.49, 2.51, -2.0, math.inf]),
        ("within", 0, [2.0], [1, 3, 1.999]),
        ("factor", 3, [0.67, 2.0, 6.0], [0.66, 6.01, 0.0, -2.0, math.inf]),
        ("at_least", 1.5, [1.5, 2.0, 100.0], [1.49, -5.0]),
    ],
)
def test_each_rule_draws_its_line(rule: str, limit: float, inside: list[float], outside: list[float]) -> None:
    one = figure(rule, limit)
    assert [verdict(one, Measured(value=value)) for value in inside] == [REPRODUCED] * len(inside)
    assert [verdict(one, Measured(value=value)) for value in outside] == [DIFFERS] * len(outside)
    assert verdict(one, absent("why")) == NOT_COMPARABLE


def test_what_is_not_a_number_is_not_comparable() -> None:
    known = facts()
    found = {(one.figure, variant): absent("no model") for one in known.figures for variant in one.variants}
    found["ablation.none", DEFINED] = Measured(value=math.nan)
    assert verdict(figure("within", 0.5), Measured(value=math.nan)) == NOT_COMPARABLE
    (row,) = [row for row in table(known, found).to_pylist() if row["figure"] == "ablation.none"]
    assert (row["verdict"], row["measured"], row["measured_text"]) == (NOT_COMPARABLE, None, "")
    assert row["note"] == "the measured value is not a number"


def test_a_distance_printed_as_the_limit_is_within_it() -> None:
    assert figure("within", 0.1, 0.7).holds(0.8)  # 0.8 - 0.7 is 0.10000000000000009


def test_what_is_never_measured_is_not_comparable() -> None:
    assert verdict(figure("unmeasured", 0), Measured(value=2.0)) == NOT_COMPARABLE


def test_the_data_file_is_whole() -> None:
    known = facts()
    names = [one.figure for one in known.figures]
    assert len(set(names)) == len(names)
    for one in known.figures:
        assert one.sources
        assert one.rule in RULES
        assert one.what
        assert one.why
        assert one.variants
        assert set(one.variants) <= {DEFINED, PUBLISHED}
        if one.published is not None and one.rule in ("within", "factor", "at_least"):
            assert one.holds(one.published), f"{one.figure}: the published number itself must count as reproduced"
    assert set(known.sources) == {source for one in known.figures for source in one.sources}
    scores = known.data["semantic_category_scores"]
    assert [len(row) for row in scores] == [12] * 12
    flat = {Head(layer, head): score for layer, row in enumerate(scores) for head, score in enumerate(row)}
    assert str(min(flat, key=lambda head: flat[head])) == known.head
    assert str(max(flat, key=lambda head: flat[head])) == known.data["highest"]
    assert all(len(keys) == 10 for keys in known.data["top10"].values())
    notebook = known.data["notebook"]
    assert len(notebook["prompt"]) == len(notebook["prompt_ids"]) == len(notebook["prompt_categories"]) == 13
    for word, category in zip(notebook["prompt"][1:], notebook["prompt_categories"][1:], strict=True):
        assert word.strip() in notebook["categories"][category]


def test_frequent_tokens_are_distinct_gpt2_ids() -> None:
    tokens = frequent_tokens()
    assert len(tokens) == len(set(tokens)) == facts().data["frequent_tokens"]["similarity"] == 8192
    assert min(tokens) >= 0
    assert max(tokens) < facts().data["shape"]["vocab_size"]


def test_a_row_says_all_there_is_to_say() -> None:
    known = facts()
    found = {(one.figure, variant): absent("no model") for one in known.figures for variant in one.variants}
    found["semantic.lowest", DEFINED] = Measured(value=2, text="2 of 144", note="so near")
    rows = {(row["figure"], row["variant"]): row for row in table(known, found).to_pylist()}
    assert list(rows) == [(one.figure, variant) for one in known.figures for variant in one.variants]
    row = rows["semantic.lowest", DEFINED]
    assert row["source"] == known.sources["repository"]
    assert (row["published"], row["measured"], row["measured_text"]) == (1, 2, "2 of 144")
    assert (row["tolerance"], row["verdict"], row["note"]) == ("exactly", DIFFERS, "so near")
    assert rows["heads.copy_suppression", DEFINED]["note"] == rows["heads.copy_suppression", DEFINED]["why"]
    assert {row["verdict"] for key, row in rows.items() if key != ("semantic.lowest", DEFINED)} == {NOT_COMPARABLE}
