"""The report in a real browser with no network: it shows what the tables say, and no token is ever run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.report_tables import HOSTILE, KEYS, SIZE, community_table, head_tables, token_tables

from qkatlas.jobs.main import run
from qkatlas.jobs.reproduce.published import DEFINED, facts
from qkatlas.jobs.reproduce.verdicts import Measured, absent, table

pytestmark = pytest.mark.browser

Finish = Callable[..., Path]
Open = Callable[..., Any]

SHOWN = 10


@pytest.fixture(scope="session")
def folders(finish_run: Finish, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("runs")
    spec = {"head": "L1H5", "states": "mlp", "scores": "attention"}
    tokens = finish_run(out, "full-vocab", token_tables(), spec)
    raw = finish_run(out, "full-vocab", token_tables(raw=True), {**spec, "top_k": KEYS})
    source = {"source": tokens.name.rpartition("-")[2]}
    return {
        "tokens": tokens,
        "raw": raw,
        "communities": finish_run(out, "communities", {"communities.parquet": community_table(5)}, source),
        "heads": finish_run(out, "head-scan", head_tables(), {"heads": ["L0H0"], "states": "mlp"}),
        "steering": finish_run(out, "steering", {"steering.parquet": steering_table()}, {"head": "L1H5"}),
        "ablation": finish_run(out, "ablation", {"ablation.parquet": ablation_table()}),
        "similarity": finish_run(out, "similarity", {"similarity.parquet": similarity_table()}, {"head": "L1H5"}),
        "reproduction": finish_run(out, "reproduce", {"reproduction.parquet": reproduction_table()}, {"head": "L1H5"}),
    }


def steering_table() -> pa.Table:
    rows = [{"method": "unsteered", "self_rank_mean": 80.0}]
    rows += [
        {"method": method, "alpha": alpha, "draw": draw, "self_rank_mean": 80.0 * alpha + draw, "overlap_at_k": 0.5}
        for method, draws in (("eigen", 1), ("control", 3))
        for alpha in (0.0, 0.5, 1.0)
        for draw in range(draws)
    ]
    # Values that differ by rounding alone must not make endless ticks.
    rows = [{**row, "kin_z_mean": 0.6436782699958121 + place * 1e-16} for place, row in enumerate(rows)]
    return pa.Table.from_pylist([{"draw": None, "alpha": None, "overlap_at_k": None, **row} for row in rows])


def ablation_table() -> pa.Table:
    components = [("embed", None, None), ("mlp", 0, None), ("head", 0, 1), ("head", 0, 2)]
    return pa.Table.from_pylist(
        [
            {"component": f"{kind}{layer or ''}.{head or ''}", "kind": kind, "layer": layer, "head": head,
             "target_layer": 1, "target_head": target, "score_mean": 2.0, "delta": place - 1.5 + target}
            for place, (kind, layer, head) in enumerate(components)
            for target in range(3)
        ]
    )  # fmt: skip


def similarity_table() -> pa.Table:
    edges, count = np.linspace(-1, 1, 21), np.arange(20) * 10
    count[6] = 0
    columns = {"cosine_low": edges[:-1], "cosine_high": edges[1:], "count": count, "mean": edges[:-1] * 3}
    return pa.table({**columns, "std": np.ones(20), "p25": edges[:-1] * 3 - 1, "p75": edges[:-1] * 3 + 1})


def reproduction_table() -> pa.Table:
    known = facts()
    found = {(one.figure, form): absent("<b>no</b> model") for one in known.figures for form in one.variants}
    found["semantic.lowest", DEFINED] = Measured(value=1, text="1 of 144")
    found["top10.red", DEFINED] = Measured(value=2, text="2 of 10", note="<img src=x onerror=window.pwned=1>")
    return table(known, found)


@pytest.fixture(scope="session")
def report(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def made(*names: str) -> Path:
        file = tmp_path_factory.mktemp("report") / "report.html"
        assert run(["report", *(str(folders[name]) for name in names), "--out", str(file)]) == 0
        return file

    return made


@pytest.fixture(scope="session")
def whole(report: Callable[..., Path]) -> Path:
    return report("communities", "heads", "steering", "ablation", "similarity", "reproduction")


def rows(folder: Path, table: str) -> list[dict[str, Any]]:
    return pq.read_table(folder / table, partitioning=None).sort_by("token_id").to_pylist()


def shown(page: Any, kind: str) -> list[tuple[int, str, str]]:
    """Token id, text and score of each row of one of the panel's lists."""
    return [
        (int(row.get_attribute("data-token")), row.locator("bdi").text_content(), row.locator(".number").inner_text())
        for row in page.locator(f"[data-list={kind}] tbody tr").all()
    ]


def readline(page: Any, name: str) -> str:
    """What stands below a chart."""
    return page.locator(".chart", has=page.get_by_role("img", name=name)).locator(".readline").inner_text()


def choose(page: Any, token: int) -> None:
    page.get_by_role("combobox", name="Search the tokens").fill(f"#{token}")
    page.keyboard.press("Enter")
    page.wait_for_selector(f".panel[data-token='{token}']")


def score_text(score: float) -> str:
    return f"{score:.2f}".replace("-", "\u2212")


@pytest.mark.parametrize("names", [("tokens",), ("communities",)])
def test_a_token_shows_the_neighbours_of_the_table(
    names: tuple[str, ...], report: Callable[..., Path], folders: dict[str, Path], open_page: Open
) -> None:
    page = open_page(report(*names))
    top, own = rows(folders["tokens"], "topk"), rows(folders["tokens"], "self")
    texts = [row["text"] for row in rows(folders["tokens"], "tokens.parquet")]
    for token in (0, 5, 8, 40, SIZE - 1):
        choose(page, token)
        expected = zip(top[token]["key_ids"][:SHOWN], top[token]["scores"][:SHOWN], strict=True)
        assert shown(page, "attended") == [(key, texts[key] or "(empty)", score_text(score)) for key, score in expected]
        readers = [
            (-score, row["token_id"])
            for row in top
            for key, score in zip(row["key_ids"][:SHOWN], row["scores"][:SHOWN], strict=True)
            if key == token and row["token_id"] != token
        ]
        expected_readers = [
            (reader, texts[reader] or "(empty)", score_text(-score)) for score, reader in sorted(readers)
        ]
        assert shown(page, "readers") == expected_readers
        assert f"{own[token]['self_rank']} of {SIZE} keys" in page.locator(".facts").inner_text()


def test_search_finds_tokens_and_a_click_follows_a_neighbour(
    report: Callable[..., Path], folders: dict[str, Path], open_page: Open
) -> None:
    page = open_page(report("tokens"))
    box = page.get_by_role("combobox")
    box.fill("word3")
    options = page.get_by_role("option")
    assert options.first.locator("bdi").text_content() == " word3"
    assert options.count() == 11  # word3 and word30 to word39
    for spelling in ("_word3", "\u00b7word3", "\u0120word3", "\u2581word3", "' word3'", " word3"):
        box.fill(spelling)
        assert options.first.locator("bdi").text_content() == " word3"
        assert options.count() == 11
    page.keyboard.press("ArrowDown")
    assert page.locator("[aria-selected=true] bdi").text_content() == " word30"
    page.keyboard.press("Enter")
    third = page.locator("[data-list=attended] tbody tr").nth(2)
    wanted = third.get_attribute("data-token")
    third.get_by_role("button").click()
    assert page.locator(".panel").get_attribute("data-token") == wanted
    box.fill("nothing like it")
    assert page.get_by_text("no token has this text").is_visible()
    page.keyboard.press("Escape")
    assert page.get_by_role("listbox").count() == 0


def test_a_click_on_the_map_chooses_the_token_there(
    report: Callable[..., Path], folders: dict[str, Path], open_page: Open
) -> None:
    page = open_page(report("communities"))
    table = pq.read_table(folders["communities"] / "communities.parquet")
    canvas = page.locator(".map .over")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    low, high = (np.array([function(table[name].to_numpy()) for name in ("x", "y")]) for function in (np.min, np.max))
    scale = min((box["width"] - 52) / (high - low)[0], (box["height"] - 52) / (high - low)[1])
    places = np.stack([table["x"].to_numpy(), table["y"].to_numpy()], axis=1)
    # The token that stands farthest from every other can be hit without doubt.
    away = np.linalg.norm(places[:, None] - places[None], axis=2) + np.eye(len(places)) * 99
    token = int(away.min(axis=1).argmax())
    across, up = ((places[token] - (low + high) / 2) * scale).tolist()
    page.mouse.move(box["x"] + box["width"] / 2 + across, box["y"] + box["height"] / 2 - up)
    page.wait_for_selector(".map .tip:not([hidden])")
    page.mouse.down()
    page.mouse.up()
    page.wait_for_selector(f".panel[data-token='{token}']")
    assert "community" in page.locator(".facts").inner_text()
    choose(page, SIZE - 1)
    assert "not on the map" in page.locator(".facts").inner_text()


def test_the_map_obeys_the_keyboard(report: Callable[..., Path], open_page: Open) -> None:
    page = open_page(report("communities"))
    panel = page.locator(".panel")
    pixels = "canvas => canvas.toDataURL()"
    canvas, points = page.locator(".map .over"), page.locator(".map canvas").first
    canvas.focus()
    before = points.evaluate(pixels)
    page.keyboard.press("+")
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(100)
    zoomed = points.evaluate(pixels)
    assert zoomed != before
    page.keyboard.press("0")
    page.wait_for_timeout(100)
    assert points.evaluate(pixels) == before
    page.keyboard.press("Enter")
    first = panel.get_attribute("data-token")
    assert first is not None
    page.keyboard.press("Shift+ArrowLeft")
    assert panel.get_attribute("data-token") != first
    page.keyboard.press("Shift+ArrowRight")
    page.get_by_label("Colour by").select_option("stability")
    page.wait_for_timeout(100)
    assert points.evaluate(pixels) != before


@pytest.mark.parametrize("name", ["tokens", "raw"])
def test_hostile_tokens_are_shown_and_run_nothing(
    name: str, report: Callable[..., Path], folders: dict[str, Path], open_page: Open
) -> None:
    page = open_page(report(name))
    texts = [row["text"] for row in rows(folders["tokens"], "tokens.parquet")]
    scripts = page.locator("script").count()
    for token in range(len(HOSTILE)):
        choose(page, token)
        text = page.locator(".panel .name bdi").text_content()
        if name == "tokens":
            assert text == (texts[token] or "(empty)")
        assert not set(text) & set("\u202e\u2066\x00\x07\x1b\x7f\r\n\t")
    page.get_by_role("combobox").fill("pwned")
    assert page.get_by_role("option").count() == 4
    page.wait_for_timeout(200)
    assert page.evaluate("window.pwned") is None
    assert page.locator("img, iframe, object, embed, svg[onload]").count() == 0
    assert page.locator("script").count() == scripts


def test_injected_markup_would_be_stopped_by_the_policy(
    report: Callable[..., Path], tmp_path: Path, browser: Any
) -> None:
    text = report("tokens").read_text(encoding="utf-8")
    file = tmp_path / "injected.html"
    attack = "<script>window.pwned=1</script><img src=x onerror='window.pwned=1'>"
    file.write_text(text.replace("<main", f"{attack}<main", 1), encoding="utf-8")
    page = browser.new_page()
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-ready=true]", state="attached")
    page.wait_for_timeout(200)
    assert page.evaluate("window.pwned") is None
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_section_is_drawn_in_light_and_dark(scheme: str, whole: Path, open_page: Open) -> None:
    page = open_page(whole, scheme)
    titles = ["Map of the vocabulary", "Heads", "Steering", "Ablation", "Similarity curve", "Published figures", "Runs"]
    assert [one.evaluate("node => node.firstChild.textContent") for one in page.locator("h2").all()] == titles
    assert [one.inner_text() for one in page.locator("nav a").all()] == titles
    assert page.locator(".notice").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    body = "getComputedStyle(document.body)"
    colour, ground = page.evaluate(f"[{body}.color, {body}.backgroundColor]")
    bright = [sum(int(part) for part in one[4:-1].split(",")[:3]) for one in (colour, ground)]
    assert abs(bright[0] - bright[1]) > 400
    assert (bright[0] > bright[1]) == (scheme == "dark")


def test_the_heads_can_be_read_by_pointer_and_by_keyboard(
    whole: Path, folders: dict[str, Path], open_page: Open
) -> None:
    page = open_page(whole)
    heads = pq.read_table(folders["heads"] / "heads.parquet").to_pylist()
    grid = page.get_by_role("grid", name="Suppression index")
    readout = page.locator(".readout")
    cell = grid.get_by_role("gridcell").first
    cell.hover()
    assert "L0H0" in readout.inner_text()
    wanted = f"{abs(heads[0]['suppression_index_mean']):.3g}"
    assert wanted in readout.inner_text()
    assert wanted in cell.get_attribute("aria-label")
    cell.focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    assert page.evaluate("document.activeElement.dataset.head") == "L1H2"
    assert "not measured" in page.evaluate("document.activeElement.getAttribute('aria-label')")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    assert page.get_by_label("Chosen head").input_value() == "L1H1"
    assert page.get_by_role("img", name="Eigenvalues of L1H1").is_visible()
    # One stop a grid for the Tab key, not one a cell.
    assert grid.locator("[tabindex='0']").count() == 1


def test_charts_read_out_what_the_tables_say(whole: Path, open_page: Open) -> None:
    page = open_page(whole)
    page.get_by_role("img", name="Own rank, by alpha").focus()
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    assert readline(page, "Own rank, by alpha") == (
        "alpha 1.00: negative eigenvalues \u00d7 alpha 80.0, same dose on random eigenvalues 81.0 (mean of 3)"
    )
    page.get_by_role("img", name="Heads on heads").focus()
    page.keyboard.press("ArrowRight")
    assert readline(page, "Heads on heads") == "head.1 ablated: score of L1H1 rises by 1.50 to 2.00 nats"
    page.get_by_role("img", name="Score less self score").focus()
    page.keyboard.press("End")
    assert readline(page, "Score less self score") == "cosine similarity 0.950: mean 2.70 (quartiles 1.70 to 3.70)"
    # The bin below -0.3 is empty: the line is broken there, not drawn over it.
    curve = page.locator(".chart", has=page.get_by_role("img", name="Score less self score"))
    assert curve.locator("path.line").count() == 2


def test_everything_is_reached_by_tab_and_seen_in_focus(whole: Path, open_page: Open) -> None:
    page = open_page(whole)
    reached, unseen = [], []
    for _ in range(80):
        page.keyboard.press("Tab")
        tag, name, outline = page.evaluate(
            "(() => { const one = document.activeElement, style = getComputedStyle(one);"
            " return [one.tagName, one.getAttribute('aria-label') || one.textContent.slice(0, 40),"
            " style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1]; })()"
        )
        if tag == "BODY":
            break
        reached.append(name)
        if not outline:
            unseen.append((tag, name))
    assert unseen == []
    for part in ("Skip to", "Map of tokens", "Zoom in", "L0H", "Own rank, by alpha", "Heads on heads", "Score less"):
        assert any(part in name for name in reached), (part, reached)


def test_a_narrow_window_needs_no_sideways_scrolling(whole: Path, open_page: Open) -> None:
    page = open_page(whole)
    page.set_viewport_size({"width": 400, "height": 800})
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


@pytest.fixture(scope="session")
def full_size(finish_run: Finish, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a vocabulary of GPT-2's size, with a map of 400 communities."""
    out, size, keys = tmp_path_factory.mktemp("full"), 50257, 64
    random = np.random.default_rng(0)
    ids = np.arange(size, dtype=np.int32)
    lists = [
        pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), keys)
        for values in (
            random.integers(0, size, (size, keys), dtype=np.int32),
            -np.sort(-random.normal(size=(size, keys)).astype(np.float32), axis=1),
        )
    ]
    own = {name: random.normal(size=size).astype(np.float32) for name in ("self_score", "self_z")}
    own["self_rank"] = random.integers(1, size, size, dtype=np.int32)
    spelled = [f" token{number}" for number in range(size)]
    tables = {
        "tokens.parquet": pa.table({"token_id": ids, "text": spelled, "is_special": np.zeros(size, bool)}),
        "topk/L1H5/part-00000.parquet": pa.table([pa.array(ids), *lists], names=["token_id", "key_ids", "scores"]),
        "self/L1H5/part-00000.parquet": pa.table({"token_id": ids, **own}),
    }
    tokens = finish_run(out, "full-vocab", tables, {"head": "L1H5", "states": "mlp", "scores": "attention"})
    community = (ids % 400).astype(np.int32)
    places = np.stack([community % 20, community // 20]) * 6 + random.normal(size=(2, size))
    x, y = places.astype(np.float32)
    table = pa.table({"token_id": ids, "community": community, "x": x, "y": y, "degree": community, "stability": x})
    source = {"source": tokens.name.rpartition("-")[2]}
    communities = finish_run(out, "communities", {"communities.parquet": table}, source)
    file = out / "report.html"
    assert run(["report", str(communities), "--out", str(file)]) == 0
    return file


def test_a_full_vocabulary_is_small_and_painted_soon(full_size: Path, open_page: Open) -> None:
    assert full_size.stat().st_size < 15e6
    page = open_page(full_size)
    painted, drawn = page.evaluate(
        "[performance.getEntriesByName('first-contentful-paint')[0].startTime,"
        " performance.getEntriesByName('drawn tokens')[0].startTime]"
    )
    assert painted < 3000
    assert drawn < 3000
    canvas = page.locator(".map .over")
    box = canvas.bounding_box()
    page.evaluate(
        "() => { window.stalls = []; new PerformanceObserver((list) => window.stalls.push("
        "...list.getEntries().map((entry) => entry.duration))).observe({ entryTypes: ['longtask'] }); }"
    )
    page.mouse.move(box["x"] + 300, box["y"] + 300)
    page.mouse.down()
    for step in range(60):
        page.mouse.move(box["x"] + 300 + 2 * step, box["y"] + 300 + step)
    page.mouse.up()
    assert max(page.evaluate("window.stalls"), default=0) < 200


def test_published_figures_stand_in_rows_with_their_verdicts(whole: Path, open_page: Open) -> None:
    page = open_page(whole)
    rows = page.locator(".reproduction tbody tr")
    assert rows.count() == reproduction_table().num_rows
    texts = rows.all_inner_texts()
    (lowest,) = [text for text in texts if "semantic.lowest" in text]
    assert "reproduced" in lowest
    assert "1 of 144" in lowest
    assert sum("differs" in text.split("\t")[0] for text in texts) == 1
    assert sum("<img src=x onerror=window.pwned=1>" in text for text in texts) == 1
    assert page.evaluate("window.pwned") is None
