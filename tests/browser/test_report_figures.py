"""Figures at their limits, in a real browser: many heads, many words, equal values, one outlier, two runs of a kind."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from support.declared import declare
from support.report_tables import SIZE, community_table, head_tables, token_tables

from qkatlas.jobs.main import run
from qkatlas.jobs.report.section import Section, columns, table_section

pytestmark = pytest.mark.browser

Finish = Callable[..., Path]
Open = Callable[..., Any]
Make = Callable[..., Path]

SPEC = {"head": "L1H5", "states": "mlp", "scores": "attention"}


@pytest.fixture
def made(finish_run: Finish, tmp_path: Path) -> Make:
    """A report of runs, each given as job, tables and settings."""

    def made(*runs: tuple[str, dict[str, pa.Table], dict[str, Any]]) -> Path:
        folders = [finish_run(tmp_path / "runs", *one) for one in runs]
        file = tmp_path / "report.html"
        assert run(["report", *map(str, folders), "--out", str(file)]) == 0
        return file

    return made


def steering(rows: list[dict[str, Any]], **tables: pa.Table) -> tuple[str, dict[str, pa.Table], dict[str, Any]]:
    given = {f"{name}.parquet": table for name, table in tables.items()}
    return "steering", {"steering.parquet": pa.Table.from_pylist(rows), **given}, {"head": "L1H5"}


def ablation(deltas: list[float]) -> tuple[str, dict[str, pa.Table], dict[str, Any]]:
    rows = [
        {"component": "L0H1", "kind": "head", "layer": 0, "head": 1, "target_layer": 1, "target_head": target,
         "score_mean": 2.0, "delta": delta}
        for target, delta in enumerate(deltas)
    ]  # fmt: skip
    return "ablation", {"ablation.parquet": pa.Table.from_pylist(rows)}, {}


def readline(page: Any, name: str) -> str:
    return page.locator(".chart", has=page.get_by_role("img", name=name)).locator(".readline").inner_text()


@pytest.fixture
def mapped(made: Make, finish_run: Finish, tmp_path: Path) -> Make:
    """A report of maps of one full-vocab run, each given as settings."""

    def mapped(*specs: dict[str, Any], communities: pa.Table | None = None) -> Path:
        source = finish_run(tmp_path / "runs", "full-vocab", token_tables(), SPEC).name.rpartition("-")[2]
        table = {"communities.parquet": communities or community_table()}
        return made(*(("communities", table, {"source": source, **spec}) for spec in specs))

    return mapped


def test_the_unsteered_head_stands_in_every_curve(made: Make, open_page: Open) -> None:
    empty = {"alpha": None, "scale": None, "step": None, "rank": None}
    doses = [
        {"method": "eigen", "alpha": 0.5}, {"method": "control", "alpha": 0.5}, {"method": "gradient", "step": 0.1},
        {"method": "singular", "scale": 2.0, "rank": 3}, {"method": "singular", "scale": 1.0, "rank": 5},
    ]  # fmt: skip
    rows = [{**empty, "self_rank_mean": 7.0, **dose} for dose in doses]
    page = open_page(made(steering([{**empty, "method": "unsteered", "self_rank_mean": 80.0}, *rows])))
    for name, x, expected in (
        ("alpha", "End", "alpha 1.00: negative eigenvalues \u00d7 alpha 80.0, same dose on random eigenvalues 80.0"),
        ("factor on them", "Home", "factor on them 1.00: 3 largest 80.0, 5 largest 7.00"),
        ("step relative to the weights", "Home", "step relative to the weights 0: 80.0"),
    ):
        page.get_by_role("img", name=f"Own rank, by {name}").focus()
        page.keyboard.press(x)
        assert readline(page, f"Own rank, by {name}") == expected


@pytest.mark.parametrize("count", [3, 400])
def test_the_words_of_a_group_are_drawn_however_many(count: int, made: Make, open_page: Open) -> None:
    query, key = np.indices((count, count)).reshape(2, -1).astype(np.int32)
    heatmap = pa.table(
        {"condition": ["base"] * len(query), "query_id": query, "key_id": key, "score": query - key / 8.0}
    )
    ids = np.arange(count, dtype=np.int32)
    tokens = pa.table({"token_id": ids, "text": [f" w{number}" for number in ids]})
    page = open_page(made(steering([{"method": "unsteered"}], heatmap=heatmap, tokens=tokens)))
    assert page.locator(".notice").count() == 0
    picture = page.get_by_role("img", name="base: ")
    picture.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator("p.readline").inner_text() == "base: \u2068\u00b7w1\u2069 to \u2068\u00b7w2\u2069 0.750 nats"
    # A few words are written at the edges, many have no room.
    assert picture.bounding_box()["width"] == (110 + 18 * 3 + 2 if count == 3 else 4 * count + 2)


@pytest.mark.parametrize("value", [0.5, 5e4])
def test_values_that_differ_by_rounding_are_one_value(value: float, made: Make, open_page: Open) -> None:
    near = float(np.nextafter(value, np.inf))
    rows = [{"method": "eigen", "alpha": x, "self_rank_mean": y} for x, y in ((0.0, value), (0.5, near), (1.0, value))]
    page = open_page(made(steering(rows)))
    assert page.locator(".notice").count() == 0
    chart = page.locator(".chart", has=page.get_by_role("img", name="Own rank, by alpha"))
    assert 2 <= chart.locator("svg > text").count() < 20


def test_the_grids_of_many_heads_lie_beside_or_below_each_other(made: Make, open_page: Open) -> None:
    page = open_page(made(("head-scan", head_tables(layers=24, heads=16), {"states": "mlp"})))
    boxes = [grid.locator("table").bounding_box() for grid in page.locator(".grid").all()]
    assert len(boxes) == 3
    card = page.locator(".card").first.bounding_box()
    assert all(box["x"] + box["width"] <= card["x"] + card["width"] for box in boxes)
    for first, second in pairwise(boxes):
        beside = first["x"] + first["width"] <= second["x"]
        below = first["y"] + first["height"] <= second["y"]
        assert beside or below
    page.set_viewport_size({"width": 400, "height": 800})
    page.wait_for_timeout(100)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_two_runs_of_a_kind_can_be_told_apart(mapped: Make, open_page: Open) -> None:
    page = open_page(mapped({"neighbours": 4, "quality": "rb", "resolution": 1.5}, {"neighbours": 9}))
    names = [one.inner_text() for one in page.locator("h2 small").all()]
    assert "4 neighbours, rb at resolution 1.5, communities-" in names[0]
    assert "9 neighbours, communities-" in names[1]
    links = [one.inner_text() for one in page.locator("nav a").all()]
    assert len(set(links)) == 3
    assert all(link.startswith("Map of the vocabulary: communities-") for link in links[:2])
    assert links[2] == "Runs"


def test_a_bilinear_run_says_so(made: Make, open_page: Open) -> None:
    page = open_page(made(("full-vocab", token_tables(), {**SPEC, "scores": "bilinear"})))
    assert "L1H5 of test, bilinear, full-vocab-" in page.locator("h2 small").first.inner_text()


def test_an_outlier_leaves_the_other_ablations_in_sight(made: Make, open_page: Open) -> None:
    page = open_page(made(ablation([100.0, 1.0, 0.0])))
    row = page.get_by_role("img", name="Heads on heads").evaluate(
        "canvas => { const ratio = Math.min(window.devicePixelRatio || 1, 2), context = canvas.getContext('2d');"
        " return Array.from(context.getImageData(110 * ratio, 63 * ratio, 144 * ratio, 1).data); }"
    )
    outlier, small, zero = np.array(row).reshape(3, -1, 4)[:, 10].tolist()
    assert sum(abs(a - b) for a, b in zip(small, zero, strict=True)) > 25
    assert sum(abs(a - b) for a, b in zip(outlier, small, strict=True)) > 100
    assert "square-root colour scale" in page.locator(".scale").first.inner_text()


def test_names_on_the_map_leave_each_other_in_their_direction(mapped: Make, open_page: Open) -> None:
    page = open_page(mapped({}))
    page.evaluate(
        "() => { const draw = CanvasRenderingContext2D.prototype.fillText; window.written = [];"
        " CanvasRenderingContext2D.prototype.fillText = function (text, ...place)"
        " { window.written.push(text); return draw.call(this, text, ...place); }; }"
    )
    page.locator(".map .over").hover()
    page.get_by_role("button", name="Show all").click()
    page.wait_for_timeout(200)
    names = [text for text in page.evaluate("window.written") if text.startswith("\u2068")]
    assert len(set(names)) == 5  # every community has one
    for name in names:
        assert all(one.startswith("\u2068") and one.endswith("\u2069") for one in name.split(", "))


def test_the_keyboard_stays_in_the_panel(made: Make, open_page: Open) -> None:
    page = open_page(made(("full-vocab", token_tables(), SPEC)))
    page.get_by_role("combobox").fill("#3")
    page.keyboard.press("Enter")
    page.locator("[data-list=attended] button").nth(1).focus()
    wanted = page.locator("[data-list=attended] tbody tr").nth(1).get_attribute("data-token")
    page.keyboard.press("Enter")
    assert page.locator(".panel").get_attribute("data-token") == wanted
    assert page.evaluate("document.activeElement.className") == "panel"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('.panel') !== null")


def test_a_token_is_found_by_its_number_and_by_the_same_text(made: Make, open_page: Open) -> None:
    tables = token_tables()
    tokens = tables["tokens.parquet"]
    texts = tokens["text"].to_pylist()
    texts[50] = "#17"
    tables["tokens.parquet"] = tokens.set_column(1, tokens.schema.field("text"), pa.array(texts))
    page = open_page(made(("full-vocab", tables, SPEC)))
    page.get_by_role("combobox").fill("#17")
    found = [one.get_attribute("data-token") for one in page.get_by_role("option").all()]
    assert found == ["17", "50"]
    page.get_by_role("combobox").fill(f"#{SIZE}")
    assert page.get_by_text("no token has this text").is_visible()


def test_labelled_heads_look_like_links(made: Make, open_page: Open) -> None:
    tables = head_tables()
    heads = tables["heads.parquet"]
    labels = ["duplicate_token", *["none"] * (heads.num_rows - 1)]
    place = heads.schema.get_field_index("label")
    tables["heads.parquet"] = heads.set_column(place, heads.schema.field("label"), pa.array(labels))
    page = open_page(made(("head-scan", tables, {"states": "mlp"})))
    button, link = page.get_by_role("button", name="L0H0", exact=True), page.locator("nav a").first
    colour = "node => getComputedStyle(node).color"
    assert button.evaluate(colour) == link.evaluate(colour)


@pytest.mark.parametrize(("lone", "said"), [(3, "3tokens"), (1, "1token")])
def test_lone_tokens_are_counted(lone: int, said: str, mapped: Make, open_page: Open) -> None:
    table = community_table()
    community = [one if one < 5 + lone else 0 for one in table["community"].to_pylist()]
    place = table.schema.get_field_index("community")
    table = table.set_column(place, table.schema.field(place), pa.array(community, pa.int32()))
    page = open_page(mapped({}, communities=table))
    assert page.locator(".tiles").inner_text().endswith(f"alone\n{said}")


def test_a_job_without_a_drawing_is_a_table_whose_columns_are_told(
    made: Make, open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    sections = (
        table_section("constructor", table="strange", place=5, title="Neurons", how="As <b>you</b> like."),
        Section(
            kind="bare", place=70, needs=("strange",), build=lambda shown: {"table": columns(shown.table("strange"))}
        ),
    )
    declare(monkeypatch, "other", *sections)
    fields = [
        pa.field("norm", pa.float64(), metadata={"description": "its norm", "unit": "nats"}),
        pa.field("text", pa.string()),
    ]
    table = pa.table([[1.5, None] * 1500, ["<img src=x onerror=window.pwned=1>", ""] * 1500], schema=pa.schema(fields))
    page = open_page(made(("other", {"strange.parquet": table}, {"head": "L1H5"}), ablation([1.0])))
    assert page.locator("#contents a").all_inner_texts() == ["Neurons", "Ablation", "bare", "Runs"]
    card = page.locator(".card").first
    assert "As <b>you</b> like." in card.locator(".how").inner_text()
    assert card.locator("th").all_inner_texts() == ["norm", "text"]
    rows = card.locator("tbody tr")
    assert rows.count() == 2000
    assert rows.first.locator("td").all_inner_texts() == ["1.500", "<img src=x onerror=window.pwned=1>"]
    assert rows.nth(1).locator("td").all_inner_texts() == ["\u2013", ""]
    assert "The first 2,000 of 3,000 rows" in card.inner_text()
    assert card.locator(".columns").inner_text().split("\n") == ["norm", "its norm (nats)"]
    assert page.evaluate("window.pwned") is None
