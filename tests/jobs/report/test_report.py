"""A report holds what the tables of its runs say, and nothing is made of runs that are not whole."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.declared import declare
from support.report_tables import KEYS, SIZE, community_table, head_tables, token_tables

from qkatlas.jobs.communities.sections import COLOURS, spread_colours
from qkatlas.jobs.loop.declaration import declarations
from qkatlas.jobs.main import run
from qkatlas.jobs.report.content import Report
from qkatlas.jobs.report.section import table_section
from qkatlas.outputs.report.pack import KINDS, unpack
from qkatlas.outputs.runs.run import Run

Finish = Callable[..., Path]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "layer=9" / "runs"  # a name that must not be taken for a partition's


@pytest.fixture
def tokens(finish_run: Finish, out: Path) -> Path:
    return finish_run(out, "full-vocab", token_tables(), {"head": "L1H5", "states": "mlp", "scores": "attention"})


@pytest.fixture
def communities(finish_run: Finish, out: Path, tokens: Path) -> Path:
    spec = {"source": tokens.name.rpartition("-")[2]}
    return finish_run(out, "communities", {"communities.parquet": community_table(left_out=5)}, spec)


class Content:
    """What a report's page unpacks."""

    def __init__(self, *folders: Path, **options: Any) -> None:
        self.title, self.blocks = Report.of([Run(folder) for folder in folders], **options).content()
        self.index = json.loads(unpack(self.blocks["index"]))
        self.sections = {section["kind"]: section for section in self.index["sections"]}

    def read(self, reference: dict[str, Any]) -> Any:
        content = unpack(self.blocks[reference["block"]])
        if reference["kind"] == "json":
            return json.loads(content)
        kinds = {short: np.dtype(name).newbyteorder("<") for name, short in KINDS.items()}
        return np.frombuffer(content, kinds[reference["kind"]]).reshape(reference["shape"])


def column(folder: Path, table: str, name: str) -> np.ndarray:
    values = pq.read_table(folder / table, partitioning=None).sort_by("token_id")[name].to_pylist()
    return np.array(values)


def test_the_tokens_are_those_of_the_tables(tokens: Path) -> None:
    content = Content(tokens, neighbours=7)
    section = content.sections["tokens"]
    assert section["head"] == "L1H5"
    assert (section["kept"], section["stored"], section["map"]) == (7, KEYS, None)
    assert content.read(section["texts"]) == column(tokens, "tokens.parquet", "text").tolist()
    assert np.array_equal(content.read(section["key_ids"]), column(tokens, "topk", "key_ids")[:, :7])
    assert np.array_equal(content.read(section["scores"]), column(tokens, "topk", "scores")[:, :7].astype(np.float32))
    assert np.array_equal(content.read(section["self_rank"]), column(tokens, "self", "self_rank"))
    assert np.array_equal(content.read(section["self_score"]), column(tokens, "self", "self_score").astype(np.float32))
    assert section["special"] == [SIZE - 1]
    assert content.title == "Head L1H5 of test"


def test_more_neighbours_than_the_run_keeps_are_all_it_keeps(tokens: Path) -> None:
    assert Content(tokens, neighbours=64).sections["tokens"]["kept"] == KEYS


def test_a_map_brings_the_run_it_was_made_from(tokens: Path, communities: Path) -> None:
    content = Content(communities)
    assert [run["name"] for run in content.index["runs"]] == [tokens.name, communities.name]
    placed = content.sections["tokens"]["map"]
    table = pq.read_table(communities / "communities.parquet")
    for name in ("token_id", "x", "y", "degree", "stability"):
        stored = content.read(placed["token_ids" if name == "token_id" else name])
        assert np.array_equal(stored, table[name].to_numpy()), name
    community_P = content.read(placed["community"])
    assert np.array_equal(community_P, table["community"].to_numpy())
    assert content.read(placed["sizes"]).tolist() == np.bincount(community_P).tolist()
    assert content.read(placed["colours"])[5:].tolist() == [0, 0, 0]
    assert (content.read(placed["colours"])[:5] > 0).all()
    names = {entry["community"]: entry["tokens"] for entry in placed["names"]}
    assert set(names) == set(range(5))
    degree = dict(zip(table["token_id"].to_pylist(), table["degree"].to_pylist(), strict=True))
    for community, three in names.items():
        members = np.flatnonzero(community_P == community).tolist()
        assert degree[three[0]] == max(degree[member] for member in members)
        assert set(three) <= set(members)


def test_a_source_that_is_named_may_lie_anywhere(
    tokens: Path, communities: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = Content(communities).blocks
    elsewhere = tmp_path / "elsewhere" / tokens.name
    elsewhere.parent.mkdir()
    tokens.rename(elsewhere)
    assert "is neither named nor beside it; name it too" in refused(capfd, communities, "--out", tmp_path / "r.html")
    assert Content(elsewhere, communities).blocks == whole
    assert Content(communities, elsewhere).blocks == whole
    for named in ((elsewhere, "communities"), ("latest", elsewhere)):  # the map by its short name, in another folder
        code, said, error = submit(capfd, *named, "--runs", communities.parent, "--out", tmp_path / "r.html")
        assert (code, error) == (0, "")
        assert f"from {tokens.name}, {communities.name}" in said
    # One that was named is taken before one beside.
    shutil.copytree(elsewhere, tokens)
    (tokens / "tokens.parquet").write_bytes(b"")
    assert Content(elsewhere, communities).blocks == whole


def test_a_map_covers_its_own_source_only(finish_run: Finish, out: Path, tokens: Path, communities: Path) -> None:
    other = finish_run(
        out, "full-vocab", token_tables(seed=2), {"head": "L0H1", "states": "mlp", "scores": "attention"}
    )
    spec = {"source": other.name.rpartition("-")[2]}
    its_map = finish_run(out, "communities", {"communities.parquet": community_table(seed=3)}, spec)
    sections = Content(tokens, other, communities).index["sections"]
    assert [(section["kind"], section["run"], section["head"]) for section in sections] == [
        ("tokens", 0, "L1H5"),
        ("tokens", 1, "L0H1"),
    ]
    assert sections[0]["map"]["run"] == communities.name
    assert sections[1]["map"] is None
    again = finish_run(out, "communities", {"communities.parquet": community_table(seed=4)}, {**spec, "seed": 1})
    content = Content(its_map, communities, again)
    assert [run["name"] for run in content.index["runs"]] == [
        folder.name for folder in (other, its_map, tokens, communities, again)
    ]
    # Maps of one run stand together, in the order in which they were named.
    assert [section["map"]["run"] for section in content.index["sections"]] == [
        folder.name for folder in (its_map, again, communities)
    ]


def test_a_new_job_shows_up_without_a_drawing_of_its_own(
    finish_run: Finish, out: Path, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = table_section("strange", table="strange", place=15, title="Strange", how="As you like.")
    declare(monkeypatch, "other", section)
    fields = [
        pa.field("a", pa.float64(), metadata={"description": "what a is", "unit": "nats"}),
        pa.field("b", pa.string()),
        pa.field("c", pa.binary()),
        pa.field("d", pa.list_(pa.int32())),
        pa.field("e", pa.date32()),
    ]
    columns = [[1.5, float("nan")] * 1100, ["\u202ex", None] * 1100, [b"\xff", b""] * 1100, [[1, 2], []] * 1100]
    table = pa.table([*columns, pa.array([0, 1] * 1100, pa.date32())], schema=pa.schema(fields))
    content = Content(finish_run(out, "other", {"strange.parquet": table}), tokens)
    assert [section["kind"] for section in content.index["sections"]] == ["tokens", "strange"]
    built = content.sections["strange"]
    assert {name: built[name] for name in ("title", "how", "of", "run")} == {
        "title": "Strange", "how": "As you like.", "of": 2200, "run": 0,
    }  # fmt: skip
    assert built["table"]["rows"] == 2000
    shown = {name: column["values"][:2] for name, column in built["table"]["columns"].items()}
    assert shown == {
        "a": [1.5, None],
        "b": ["\\u202ex", None],
        "c": ["\\xff", ""],
        "d": ["1, 2", ""],
        "e": ["1970-01-01", "1970-01-02"],
    }
    assert built["table"]["columns"]["a"]["description"] == "what a is"
    assert built["table"]["columns"]["a"]["unit"] == "nats"


@pytest.mark.parametrize("name", [name for name, declared in declarations().items() if declared.sections])
def test_sections_need_tables_that_the_job_leaves(name: str) -> None:
    declared = declarations()[name]
    known = {table.folder for table in declared.load(declared.job).tables}
    places: dict[str, int] = {}
    for section in declared.load(declared.sections):
        assert known.issuperset(section.needs), section
        assert places.setdefault(section.kind, section.place) == section.place


def test_the_same_runs_give_the_same_bytes(tokens: Path, communities: Path) -> None:
    assert Content(communities).blocks == Content(tokens, communities, tokens).blocks


def test_two_maps_of_one_run_share_its_data(finish_run: Finish, out: Path, tokens: Path, communities: Path) -> None:
    spec = {"source": tokens.name.rpartition("-")[2], "resolution": 2.0}
    other = finish_run(out, "communities", {"communities.parquet": community_table(seed=1)}, spec)
    content = Content(communities, other)
    first, second = content.index["sections"]
    assert first["key_ids"] == second["key_ids"]
    assert first["map"]["x"] != second["map"]["x"]


def test_heads_keep_what_was_not_measured_apart(finish_run: Finish, out: Path) -> None:
    folder = finish_run(out, "head-scan", head_tables(), {"heads": ["L0H0"]})
    content = Content(folder)
    section, table = content.sections["heads"], pq.read_table(folder / "heads.parquet")
    assert section["table"]["rows"] == table.num_rows
    for name in table.column_names:
        assert section["table"]["columns"][name]["values"] == table[name].to_pylist()
    assert section["table"]["columns"]["self_rank_mean"]["values"][-1] is None
    assert section["table"]["columns"]["self_rank_mean"]["unit"] == "rank"
    assert content.read(section["spectrum"]["eigenvalue"])[:8].tolist() == [3.5 - index for index in range(8)]
    assert np.isnan(content.read(section["spectrum"]["singular_value"])).all()
    assert section["spectrum"]["start"] == list(range(0, 49, 8))
    assert content.title == "Attention heads of test"


def test_small_tables_become_sections(finish_run: Finish, out: Path) -> None:
    table = pa.table({"method": ["eigen"], "alpha": [1.0], "self_rank_mean": [float("nan")]})
    runs = [
        finish_run(out, job, {f"{job}.parquet": table}, {"head": "L1H5"})
        for job in ("similarity", "ablation", "steering")
    ]
    content = Content(*runs)
    assert [section["kind"] for section in content.index["sections"]] == ["steering", "ablation", "similarity"]
    assert [section["run"] for section in content.index["sections"]] == [2, 1, 0]
    assert content.sections["steering"]["table"]["columns"]["self_rank_mean"]["values"] == [None]


def test_heat_maps_are_packed_by_condition_and_word(finish_run: Finish, out: Path) -> None:
    heatmap = {
        "condition": ["base", "base", "base", "skew"], "query_id": [7, 7, 2, 2], "key_id": [7, 2, 7, 2],
        "score": pa.array([1.5, -2.0, 3.0, 0.25], pa.float32()),
    }  # fmt: skip
    tokens = pa.table({"token_id": list(range(9)), "text": [f"t\u202e{number}" for number in range(9)]})
    tables = {"steering.parquet": pa.table({"method": ["unsteered"]}), "heatmap.parquet": pa.table(heatmap)}
    content = Content(finish_run(out, "steering", {**tables, "tokens.parquet": tokens}, {"head": "L1H5"}))
    section = content.sections["steering"]["heatmap"]
    assert (section["conditions"], section["words"]) == (["base", "skew"], ["t\\u202e7", "t\\u202e2"])
    nan = np.nan
    np.testing.assert_array_equal(
        content.read(section["scores"]), [[[1.5, -2.0], [3.0, nan]], [[nan, nan], [nan, 0.25]]]
    )


@pytest.mark.parametrize(
    ("provenance", "shown"),
    [
        (None, "unknown model"),
        (
            {"model": "/models/m\u202e<img>\ud800/", "versions": None, "code": None, "devices": None},
            r"m\u202e<img>\ud800",
        ),
    ],
)
def test_a_model_is_named_printably_and_nothing_must_be_known_of_it(
    provenance: dict[str, Any] | None, shown: str, tokens: Path
) -> None:
    manifest = json.loads((tokens / "manifest.json").read_text(encoding="utf-8"))
    (tokens / "manifest.json").write_text(json.dumps({**manifest, "provenance": provenance}), encoding="utf-8")
    content = Content(tokens)
    assert content.index["runs"][0]["model"] == shown
    assert content.title == f"Head L1H5 of {shown}"


def test_colours_tell_neighbours_apart() -> None:
    centre_C2 = np.array([(x, y) for x in range(12) for y in range(12)], dtype=float)
    colour_C = spread_colours(centre_C2, np.full(144, 9)).reshape(12, 12)
    assert set(colour_C.ravel()) == set(range(1, COLOURS + 1))
    assert not (colour_C[1:] == colour_C[:-1]).any()
    assert not (colour_C[:, 1:] == colour_C[:, :-1]).any()
    assert spread_colours(np.zeros((0, 2)), np.zeros(0, dtype=int)).tolist() == []


def submit(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capfd.readouterr()
    code = run(["report", *map(str, arguments)])
    text = capfd.readouterr()
    return code, text.out, text.err


def test_the_command_writes_the_file_and_says_so(
    tokens: Path, out: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "pages" / "report.html"
    code, said, error = submit(capfd, tokens.name[:12], "--runs", out, "--out", file)
    assert (code, error) == (0, "")
    assert f"in {file}, from {tokens.name}" in said
    assert file.read_text(encoding="utf-8").startswith("<!doctype html>")
    into, _, _ = submit(capfd, tokens, "--out", tmp_path)
    assert into == 0
    assert (tmp_path / "report.html").read_bytes() == file.read_bytes()


def refused(capfd: pytest.CaptureFixture[str], *arguments: object) -> str:
    code, said, error = submit(capfd, *arguments)
    assert (code, said) == (2, "")
    assert error.count("\n") == 1
    assert error.startswith("submit: error: ")
    return error


def test_what_is_not_whole_is_refused_in_one_line(
    finish_run: Finish, tokens: Path, communities: Path, out: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "report.html"
    place = ("--runs", out, "--out", file)
    assert "'nothing' is not in" in refused(capfd, "nothing", *place)
    assert "--neighbours 0 is impossible; choose from 1 to 64" in refused(capfd, tokens, "--neighbours", "0", *place)
    alien = finish_run(out, "other", {"strange.parquet": pa.table({"a": [1]})})
    assert "no table that a report shows" in refused(capfd, alien, *place)

    half = {path: table for path, table in token_tables().items() if not path.startswith("self/")}
    assert "no table that a report shows" in refused(capfd, finish_run(out, "full-vocab", half), *place)

    part = tokens / "topk/L1H5/part-00001.parquet"
    whole = part.read_bytes()
    part.write_bytes(whole[:-1] + b"?")  # the same size: only the hash tells
    assert "part-00001.parquet has other content" in refused(capfd, tokens, *place)
    assert "part-00001.parquet has other content" in refused(capfd, communities, *place)
    part.write_bytes(whole[:-1])
    assert "is damaged: " in refused(capfd, tokens, *place)
    part.write_bytes(whole)

    (tokens / "manifest.json").rename(tmp_path / "kept.json")
    assert "is not finished; submit the same request again" in refused(capfd, tokens, *place)
    assert "is not finished; submit the same request again" in refused(capfd, communities, *place)
    (tokens / "_state" / "plan.json").unlink()
    assert f"the source of {communities.name}" in refused(capfd, communities, *place)
    assert not file.exists()


def test_a_file_that_is_no_report_is_left_alone(
    tokens: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "manifest.json"
    file.write_text("{}")
    assert "is no report and is left alone" in refused(capfd, tokens, "--out", file)
    assert file.read_text() == "{}"
    assert "is no file; write the report to a folder of this machine" in refused(
        capfd, tokens, "--out", "s3://bucket/report.html"
    )


def test_a_report_stays_out_of_the_folders_of_runs(tokens: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = sorted(tokens.rglob("*"))
    for place in (tokens, tokens / "page.html", tokens / "new" / "page.html", tokens / "topk"):
        assert f"is in {tokens}, which holds a run; choose a file outside it" in refused(capfd, tokens, "--out", place)
    assert sorted(tokens.rglob("*")) == before


def test_a_large_report_says_how_to_make_it_smaller(
    tokens: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ("--out", tmp_path / "report.html")
    assert "fewer --neighbours" not in submit(capfd, tokens, *place)[1]
    monkeypatch.setattr("qkatlas.jobs.report.command._LARGE", 1000)
    code, said, _ = submit(capfd, tokens, *place)
    assert code == 0
    assert "fewer --neighbours than 10, or fewer runs, make it smaller" in said


@pytest.mark.slow
def test_a_report_loads_neither_torch_nor_ray(tokens: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from qkatlas.jobs.main import run; code = run(sys.argv[1:]); "
        "sys.exit(code or any(name in sys.modules for name in ('torch', 'ray', 'transformers')))"
    )
    arguments = ["report", str(tokens), "--out", str(tmp_path / "report.html")]
    assert subprocess.run([sys.executable, "-c", program, *arguments], check=False, timeout=60).returncode == 0
