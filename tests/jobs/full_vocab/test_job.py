"""The full-vocab job: its tables against NumPy in float64, the planted truth, and themselves under faults."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.part_files import part_file

from qkatlas.cluster.executor import Executor
from qkatlas.cluster.in_process import InProcessExecutor
from qkatlas.jobs.full_vocab.job import FullVocabJob
from qkatlas.jobs.full_vocab.spec import FullVocab
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.loop.result import Result
from qkatlas.jobs.loop.service import submit
from qkatlas.jobs.worker.tables import SELF
from qkatlas.outputs.runs import soundness
from qkatlas.outputs.runs.run import Run


def compute(folder: Path, out: Path, *, executor: Executor | None = None, **spec: Any) -> Result:
    job = FullVocabJob(FullVocab(**spec), Model.open("test", folder))
    return submit(job, out=out, executor=executor or InProcessExecutor(), gpus=0)


def table(run: Run, name: str) -> pa.Table:
    return ds.dataset(run.folder / name, partitioning="hive").to_table().sort_by("token_id")


def hashes(run: Run) -> dict[str, str]:
    return {
        file.relative_to(run.folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(Path(run.folder).rglob("*.parquet"))
        if "_state" not in file.parts
    }


@pytest.mark.parametrize("form", ["attention", "bilinear"])
@pytest.mark.parametrize(("head", "k"), [("L0H1", 1), ("L1H3", 20), ("L2H0", 211)])
def test_tables_equal_float64_numpy(
    random_model: Path, tmp_path: Path, reference_scores: Callable[..., np.ndarray], head: str, k: int, form: str
) -> None:
    run = compute(random_model, tmp_path, head=head, top_k=k, scores=form, shards=3).run
    layer, index = int(head[1]), int(head[3])
    expected_VV = reference_scores(random_model, layer, index, form)
    size = len(expected_VV)
    order_VV = np.lexsort((np.broadcast_to(np.arange(size), (size, size)), -expected_VV))
    top = table(run, "topk")
    ids_VK, scores_VK = (np.array(top[name].to_pylist()) for name in ("key_ids", "scores"))
    tolerance = 1e-5 * np.abs(expected_VV).max()
    np.testing.assert_allclose(scores_VK, np.take_along_axis(expected_VV, order_VV[:, :k], 1), atol=tolerance)
    np.testing.assert_allclose(scores_VK, np.take_along_axis(expected_VV, ids_VK, 1), atol=tolerance)
    assert all(len(set(row)) == k for row in ids_VK.tolist())

    own = table(run, "self")
    own_V = np.diag(expected_VV)
    np.testing.assert_allclose(own["self_score"].to_numpy(), own_V, atol=tolerance)
    np.testing.assert_allclose(own["row_mean"].to_numpy(), expected_VV.mean(1), atol=tolerance)
    np.testing.assert_allclose(own["row_std"].to_numpy(), expected_VV.std(1), atol=tolerance)
    np.testing.assert_allclose(own["self_z"].to_numpy(), (own_V - expected_VV.mean(1)) / expected_VV.std(1), atol=1e-4)
    others_VV = np.where(np.eye(size, dtype=bool), -np.inf, expected_VV)
    np.testing.assert_allclose(own["best_other_score"].to_numpy(), others_VV.max(1), atol=tolerance)
    np.testing.assert_allclose(own["self_gap"].to_numpy(), others_VV.max(1) - own_V, atol=2 * tolerance)
    chosen_V = np.take_along_axis(expected_VV, own["best_other_id"].to_numpy()[:, None], 1)[:, 0]
    np.testing.assert_allclose(chosen_V, others_VV.max(1), atol=tolerance)
    # The rank is exact for the scores as computed: it may differ from float64's only where scores are that close.
    above_V = (expected_VV > own_V[:, None] + 2 * tolerance).sum(1)
    within_V = (expected_VV > own_V[:, None] - 2 * tolerance).sum(1)
    rank_V = own["self_rank"].to_numpy()
    assert ((above_V + 1 <= rank_V) & (rank_V <= np.maximum(within_V, 1))).all()


def test_self_rank_is_exact_for_the_queries_and_keys(random_model: Path, tmp_path: Path) -> None:
    model = Model.open("test", random_model)
    job = FullVocabJob(FullVocab(head="L1H2"), model)
    inputs = job.inputs(1)
    dots_VV = inputs.queries_VH.astype(np.float64) @ inputs.keys_VH.astype(np.float64).T
    run = compute(random_model, tmp_path, head="L1H2").run
    expected_V = 1 + (dots_VV > np.diag(dots_VV)[:, None] + 1e-12).sum(1)
    np.testing.assert_array_equal(table(run, "self")["self_rank"].to_numpy(), expected_V)


def test_files_follow_the_data_contract(planted_tiny: Path, tmp_path: Path) -> None:
    run = compute(planted_tiny, tmp_path, shards=2, top_k=10).run
    digests = {path: digest[:12] for path, digest in hashes(run).items()}
    assert [path.removesuffix(f"-{digest}.parquet") for path, digest in sorted(digests.items())] == [
        "self/L1H5/part-00000",
        "self/L1H5/part-00001",
        "tokens.parquet",
        "topk/L1H5/part-00000",
        "topk/L1H5/part-00001",
    ]
    topk = pq.ParquetFile(part_file(run.folder, "topk/L1H5/part-00001")).schema_arrow
    assert topk.names == ["layer", "head", "token_id", "key_ids", "scores"]
    assert topk.field("token_id").type == pa.int32()
    assert topk.field("key_ids").type == pa.list_(pa.int32(), 10)
    assert topk.field("scores").type == pa.list_(pa.float32(), 10)
    assert topk.field("scores").metadata[b"unit"] == b"nats"
    assert topk.field("scores").metadata[b"shape"] == b"[10]"
    own = pq.read_schema(part_file(run.folder, "self/L1H5/part-00000"))
    assert own.equals(SELF.columns, check_metadata=True)
    tokens = pq.read_table(run.folder / "tokens.parquet")
    assert tokens.schema.names == ["token_id", "text", "bytes", "is_special"]
    assert tokens["token_id"].to_pylist() == list(range(1024))
    assert tokens["is_special"].to_pylist().count(True) == 1
    row = tokens.filter(pa.compute.equal(tokens["bytes"], b" red")).to_pylist()
    assert [entry["text"] for entry in row] == [" red"]

    manifest = json.loads((Path(run.folder) / "manifest.json").read_text())
    assert {part["path"]: part["sha256"] for part in manifest["parts"]} == hashes(run)
    assert manifest["spec"] == {"head": "L1H5", "states": "mlp", "scores": "attention", "top_k": 10}
    weights = hashlib.sha256((planted_tiny / "model.safetensors").read_bytes()).hexdigest()
    assert manifest["model"]["weights_sha256"] == weights
    assert {"versions", "host", "argv", "tf32", "seed", "seconds", "code"} <= set(manifest["provenance"])
    assert sum(shard["measures"]["scores"] for shard in manifest["shards"]) == 1024**2


def test_the_planted_truth_is_recovered(planted_tiny: Path, planted_truth: dict, tmp_path: Path) -> None:
    run = compute(planted_tiny, tmp_path, top_k=10).run
    category_of = {
        token: category["name"]
        for category in planted_truth["categories"]
        for word in category["words"]
        for token in word["token_ids"]
    }
    same = total = 0
    for row in table(run, "topk").to_pylist():
        if row["token_id"] in category_of:
            assert row["token_id"] not in row["key_ids"]
            same += sum(category_of.get(key) == category_of[row["token_id"]] for key in row["key_ids"])
            total += 10
    assert total >= 1000
    assert same / total >= 0.95


@pytest.mark.slow
def test_results_do_not_depend_on_shards_or_threads(planted_tiny: Path, tmp_path: Path) -> None:
    class Wide(InProcessExecutor):
        def start(self, grant: Any) -> None:
            super().start(type(grant)(cpus=3, gpus=0, workers=1))

    tables = []
    for number, shards in enumerate((1, 2, 7, 300)):
        executor = Wide() if number % 2 else InProcessExecutor()
        run = compute(planted_tiny, tmp_path / str(shards), shards=shards, executor=executor).run
        tables.append([table(run, name) for name in ("topk", "self")])
        assert (tmp_path / "1" / run.folder.name).is_dir()
    for other in tables[1:]:
        assert other[0].equals(tables[0][0])
        assert other[1].equals(tables[0][1])


def test_a_vocabulary_of_one_token(make_random_model: Callable[..., Path], tmp_path: Path) -> None:
    run = compute(make_random_model(5, vocab_size=1), tmp_path, top_k=1).run
    (row,) = table(run, "self").drop_columns(["layer", "head", "self_score", "row_mean"]).to_pylist()
    assert row == {
        "token_id": 0,
        "self_rank": 1,
        "row_std": 0.0,
        "self_z": None,
        "best_other_id": None,
        "best_other_score": None,
        "self_gap": None,
    }
    assert table(run, "topk")["key_ids"].to_pylist() == [[0]]


def test_the_run_id_follows_what_changes_results_only(planted_tiny: Path, random_model: Path, tmp_path: Path) -> None:
    def run_id(folder: Path, out: str = "a", shards: int | None = None, **spec: Any) -> str:
        return compute(folder, tmp_path / out, shards=shards, **spec).run.folder.name

    first = run_id(random_model, head="L1H0")
    moved = shutil.copytree(random_model, tmp_path / "moved")
    assert run_id(Path(moved), "b", shards=5, head="L1H0") == first
    others = {
        run_id(random_model, head="L1H1"),
        run_id(random_model, head="L1H0", top_k=3),
        run_id(random_model, head="L1H0", scores="bilinear"),
        run_id(planted_tiny, head="L1H0"),
    }
    assert len(others | {first}) == 5


def test_a_finished_run_returns_without_computing(random_model: Path, tmp_path: Path) -> None:
    class Forbidden(InProcessExecutor):
        def start(self, grant: Any) -> None:
            raise AssertionError("a finished run needs no executor")

    first = compute(random_model, tmp_path)
    before = {file: file.stat().st_mtime_ns for file in Path(first.run.folder).rglob("*")}
    again = compute(random_model, tmp_path, executor=Forbidden())
    assert (first.computed, again.computed, again.failures) == (1, 0, {})
    assert {file: file.stat().st_mtime_ns for file in Path(first.run.folder).rglob("*")} == before


class Breaking(InProcessExecutor):
    """Stops the driver, or fails shards, after some items."""

    def __init__(self, items: int, error: BaseException) -> None:
        super().__init__()
        self._items, self._error = items, error

    def map(self, function: Callable[..., Any], tasks: Any) -> Iterator[Any]:
        for number, outcome in enumerate(super().map(function, tasks)):
            if number == self._items:
                raise self._error
            yield outcome


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_resume_after_any_fault_ends_with_the_same_files(
    random_model: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    shards = data.draw(st.integers(1, 9), label="shards")
    whole = compute(random_model, tmp_path_factory.mktemp("whole"), shards=shards).run
    out = tmp_path_factory.mktemp("broken")
    done = data.draw(st.integers(0, shards), label="committed before the kill")
    with pytest.raises(KeyboardInterrupt) if done < shards else _nothing():
        compute(random_model, out, shards=shards, executor=Breaking(done, KeyboardInterrupt()))
    run = Run(out / whole.folder.name)
    parts = sorted(Path(run.folder).rglob("part-*.parquet"))
    damaged = data.draw(st.sets(st.sampled_from(parts)) if parts else st.just(set()), label="damaged parts")
    for file in damaged:
        kind = data.draw(st.sampled_from(["truncated", "corrupted", "foreign", "deleted"]))
        content = file.read_bytes()
        if kind == "deleted":
            file.unlink()
        elif kind == "foreign":
            file.write_bytes((Path(whole.folder) / "tokens.parquet").read_bytes())
        else:
            middle = len(content) // 2
            file.write_bytes(content[:middle] + (b"" if kind == "truncated" else b"?" + content[middle + 1 :]))
    other_shards = data.draw(st.integers(1, 9), label="shards asked for when resuming")
    result = compute(random_model, out, shards=other_shards)
    assert result.failures == {}
    assert result.computed <= shards - done + 1 + len(damaged)
    assert hashes(result.run) == hashes(whole)
    assert soundness.faults(result.run) == []


def test_only_the_missing_shards_are_computed(random_model: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        compute(random_model, tmp_path, shards=7, executor=Breaking(4, KeyboardInterrupt()))
    assert compute(random_model, tmp_path, shards=7).computed == 3


def test_shards_that_fail_are_listed_and_the_others_kept(
    random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qkatlas.jobs.loop import work

    write_part, written = work.write_part, []

    def full_disk(folder: Path, path: str, rows: pa.Table) -> Any:
        if len(written) >= 4:
            raise OSError(28, "No space left on device")
        written.append(path)
        return write_part(folder, path, rows)

    monkeypatch.setattr(work, "write_part", full_disk)
    result = compute(random_model, tmp_path, shards=5)
    assert list(result.failures) == ["L1H5-000084-000126", "L1H5-000126-000168", "L1H5-000168-000211"]
    assert all(failure.kind == "OSError" for failure in result.failures.values())
    assert result.run.manifest() is None
    monkeypatch.undo()
    assert compute(random_model, tmp_path, shards=5).computed == 3


def test_inputs_with_other_bits_are_never_mixed(
    random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = compute(random_model, tmp_path / "whole", shards=6, head="L1H1").run
    with monkeypatch.context() as patch:
        # The machine that began the run has other arithmetic: one bit of every key differs.
        inputs = FullVocabJob.inputs

        def other_bits(job: FullVocabJob, threads: int) -> Any:
            made = inputs(job, threads)
            made.keys_VH[:] = np.nextafter(made.keys_VH, np.float32(9))
            return made

        patch.setattr(FullVocabJob, "inputs", other_bits)
        with pytest.raises(KeyboardInterrupt):
            compute(random_model, tmp_path, shards=6, head="L1H1", executor=Breaking(4, KeyboardInterrupt()))
    result = compute(random_model, tmp_path, shards=6, head="L1H1")
    assert result.computed == 6
    assert hashes(result.run) == hashes(whole)


def test_duckdb_polars_and_pandas_open_the_tables_in_one_line(random_model: Path, tmp_path: Path) -> None:
    import duckdb
    import pandas
    import polars

    run = compute(random_model, tmp_path, shards=3, head="L1H0", top_k=4).run
    folder = Path(run.folder)
    expected = table(run, "topk")
    by_duckdb = duckdb.sql(f"SELECT * FROM read_parquet('{folder}/topk/**/*.parquet', hive_partitioning = true)")
    by_polars = polars.read_parquet(folder / "topk")
    by_pandas = pandas.read_parquet(folder / "topk")
    for token_ids, keys in (
        (by_duckdb.order("token_id").df()["token_id"], by_duckdb.order("token_id").df()["key_ids"]),
        (by_polars.sort("token_id")["token_id"], by_polars.sort("token_id")["key_ids"]),
        (by_pandas.sort_values("token_id")["token_id"], by_pandas.sort_values("token_id")["key_ids"]),
    ):
        assert list(token_ids) == list(range(211))
        assert [list(row) for row in keys] == expected["key_ids"].to_pylist()
    assert set(by_polars["head"]) == {0}
    assert set(by_pandas["layer"].astype(int)) == {1}


def _nothing() -> Any:
    from contextlib import nullcontext

    return nullcontext()
