"""Lines of the documentation that read tables without our code: each is run as it stands there."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from qkatlas.jobs.publish.data_set import publish
from qkatlas.outputs.runs.run import Run

ROOT = Path(__file__).parents[2]
PAGES = (("README.md", "## Reading the results"), ("docs/library.md", "## Tables without our code"))
HEADS = ((0, 2), (1, 10), (2, 3))
READERS = ("pandas", "polars", "duckdb", "pyarrow", "datasets")


def lines() -> list[Any]:
    """Each line of the pages' Python, those of `datasets` marked slow."""
    found = []
    for page, heading in PAGES:
        section = (ROOT / page).read_text(encoding="utf-8").split(heading)[1].split("\n## ")[0]
        for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
            for line in block.splitlines():
                marks = [pytest.mark.slow] if line.startswith("datasets.") else []
                found.append(pytest.param(line, id=f"{Path(page).stem}: {line[:60]}", marks=marks))
    return found


@pytest.fixture(scope="module")
def folders(finish_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A run of three heads of three layers, two tokens each, and the same as a data set."""
    out = tmp_path_factory.mktemp("readers")
    ids = pa.array(range(2), pa.int32())
    tables = {
        f"topk/L{layer}H{head}/part-0.parquet": pa.table(
            {"token_id": ids, "key_ids": pa.array([[layer, head]] * 2, pa.list_(pa.int32(), 2))}
        )
        for layer, head in HEADS
    }
    run = finish_run(out, "full-vocab", tables)
    publish(Run(run), out / "published", weights_licence="mit", say=lambda line: None)
    return {"run": str(run), "published": str(out / "published")}


def rows_of(found: Any) -> list[dict[str, Any]]:
    """What a reader found, as dictionaries."""
    for name in ("to_pylist", "to_dicts", "to_list"):  # Arrow, Polars, datasets
        if hasattr(found, name):
            return list(getattr(found, name)())
    return list((found.df() if hasattr(found, "df") else found).to_dict("records"))  # DuckDB, pandas


@pytest.mark.parametrize("line", lines())
def test_a_line_reads_every_row_with_its_layer_and_head(
    line: str, folders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: dict[str, Any] = {name: import_module(name) for name in READERS if name in line}
    for inner in ("pyarrow.dataset", "pyarrow.parquet", "pyarrow.compute"):
        import_module(inner)
    if "datasets" in names:
        monkeypatch.setattr(names["datasets"].config, "HF_DATASETS_CACHE", tmp_path)
    rows = rows_of(eval(line, names | folders))
    heads = [(layer, head) for layer, head in HEADS if layer < 2 or "< 2" not in line]
    expected = sorted((layer, head, token, [layer, head]) for layer, head in heads for token in range(2))
    assert sorted((r["layer"], r["head"], r["token_id"], list(r["key_ids"])) for r in rows) == expected


def test_every_reader_is_among_them_in_both_pages() -> None:
    texts = [case.values[0] for case in lines()]
    for reader in READERS:
        assert sum(text.startswith(f"{reader}.") for text in texts) >= 3, reader


def test_types_are_as_the_page_says(folders: dict[str, str]) -> None:
    import duckdb
    import pandas
    import polars
    import pyarrow.dataset

    topk = f"{folders['run']}/topk"
    assert str(pandas.read_parquet(topk)["layer"].dtype) == "int32"
    assert polars.read_parquet(topk)["layer"].dtype == polars.Int32
    asked = duckdb.sql(f"SELECT layer FROM read_parquet('{topk}/**/*.parquet')")
    assert [str(kind) for kind in asked.types] == ["INTEGER"]
    assert pandas.read_parquet(f"{folders['published']}/data/topk")["layer"].dtype == "int32"
    found = pyarrow.dataset.dataset(topk, partitioning="hive").to_table()
    assert found.schema.field("layer").type == pa.int32()
