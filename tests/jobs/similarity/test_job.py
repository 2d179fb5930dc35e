"""The similarity job: every column against brute force, frequency subsets, resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import reference
from support.interruptions import Stopping, hashes
from support.part_files import part_file
from support.refusals import refused

from qkatlas.cluster.in_process import InProcessExecutor
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.loop.result import Result
from qkatlas.jobs.loop.service import submit
from qkatlas.jobs.main import run as submit_command
from qkatlas.jobs.similarity.job import SimilarityJob
from qkatlas.jobs.similarity.spec import Similarity
from qkatlas.jobs.worker import ranges
from qkatlas.outputs.runs import soundness
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.schemas import similarity as schemas_similarity
from qkatlas.pipeline.circuit.states import TokenStates


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "ROWS_PER_SHARD", 60)


def measure(folder: Path, out: Path, executor: Any = None, **spec: Any) -> Result:
    job = SimilarityJob(Similarity(**spec), Model.open("test", folder))
    return submit(job, out=out, executor=executor or InProcessExecutor(), gpus=0)


@pytest.fixture(scope="module")
def whole(random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    patch = pytest.MonkeyPatch()
    patch.setattr(ranges, "ROWS_PER_SHARD", 60)
    run = measure(random_model, tmp_path_factory.mktemp("whole")).run
    patch.undo()
    return run


def assert_equals_numpy(run: Run, folder: Path, scores_VV: np.ndarray, tokens: np.ndarray, bins: int) -> None:
    states_VD = TokenStates(Model.open("test", folder).checkpoint, "mlp", threads=1).advance_to(1)
    unit_VD = reference.unit(states_VD[tokens])
    scores_VV = scores_VV[np.ix_(tokens, tokens)]
    cosines_VV, difference_VV = np.clip(unit_VD @ unit_VD.T, -1, 1), scores_VV - np.diag(scores_VV)[:, None]
    edges = np.linspace(-1, 1, bins + 1)
    table = pq.read_table(run.folder / "similarity.parquet")
    assert table.schema.equals(schemas_similarity.SIMILARITY, check_metadata=True)
    np.testing.assert_allclose(table["cosine_low"].to_numpy(), edges[:-1])
    np.testing.assert_allclose(table["cosine_high"].to_numpy(), edges[1:])
    assert table["count"].to_numpy().sum() == len(tokens) ** 2
    assert table["self_pairs"].to_pylist() == [0] * (bins - 1) + [len(tokens)]
    number_VV = np.minimum(np.digitize(cosines_VV, edges) - 1, bins - 1)
    for number, row in enumerate(table.to_pylist()):
        inside = difference_VV[number_VV == number]
        assert row["count"] == len(inside)
        if not len(inside):
            assert row["mean"] is None
            assert row["p50"] is None
            continue
        close = 1e-5 * np.abs(scores_VV).max()
        assert row["mean"] == pytest.approx(inside.mean(), abs=close)
        assert row["std"] == pytest.approx(inside.std(), abs=10 * close)
        exact = np.quantile(inside, [0.25, 0.5, 0.75], method="inverted_cdf")
        found = [row["p25"], row["p50"], row["p75"]]
        np.testing.assert_allclose(found, exact, atol=row["quartile_error"] + close)
        assert row["quartile_error"] < 0.01 * (difference_VV.max() - difference_VV.min())


def test_every_column_equals_numpy(random_model: Path, whole: Run, reference_scores: Callable[..., np.ndarray]) -> None:
    assert_equals_numpy(whole, random_model, reference_scores(random_model, 1, 5), np.arange(211), 200)
    assert soundness.faults(whole) == []
    cells = pq.read_table(part_file(whole.folder, "histogram/part-00000"), partitioning=None)
    assert cells.schema.equals(schemas_similarity.HISTOGRAM, check_metadata=True)


def test_a_bilinear_subset_equals_numpy(
    random_model: Path, tmp_path: Path, reference_scores: Callable[..., np.ndarray]
) -> None:
    tokens = tuple(np.random.default_rng(0).permutation(211)[:90].tolist())
    run = measure(random_model, tmp_path, tokens=tokens, bins=40, scores="bilinear").run
    dense_VV = reference_scores(random_model, 1, 5, "bilinear")
    assert_equals_numpy(run, random_model, dense_VV, np.array(tokens), 40)
    subset = pq.read_table(run.folder / "subset.parquet")
    assert subset["token_id"].to_pylist() == list(tokens)
    assert measure(random_model, tmp_path, tokens=tokens, bins=40, scores="bilinear").computed == 0
    assert measure(random_model, tmp_path, tokens=tokens[::-1], bins=40, scores="bilinear").computed == 2


def test_the_planted_head_prefers_similar_to_identical_tokens(planted_tiny: Path, tmp_path: Path) -> None:
    run = measure(planted_tiny, tmp_path, bins=40).run
    rows = [row for row in pq.read_table(run.folder / "similarity.parquet").to_pylist() if row["count"]]
    alike = [row for row in rows if 0.3 < row["cosine_low"] < 0.6]
    assert min(row["mean"] for row in alike) > 4  # nats
    assert rows[-1]["self_pairs"] == 1024
    assert abs(rows[-1]["mean"]) < 1


@pytest.mark.parametrize("shards", [0, 2])
def test_a_stopped_run_ends_with_the_same_files(random_model: Path, whole: Run, tmp_path: Path, shards: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        measure(random_model, tmp_path, executor=Stopping(shards))
    result = measure(random_model, tmp_path)
    assert result.computed == 4 - shards
    assert hashes(result.run) == hashes(whole)
    part_file(result.run.folder, "histogram/part-00002").write_bytes(b"")
    assert measure(random_model, tmp_path).computed == 1
    assert hashes(result.run) == hashes(whole)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--most-frequent", "5"], ["--most-frequent 5", "--frequencies"]),
        (["--bins", "0"], ["--bins 0", "1 to 2000"]),
        (["--head", "L9H0"], ["L9H0", "L0H0 to L2H7"]),
        (["--states", "none"], ["--states", "mlp"]),
    ],
)
def test_a_bad_request_is_one_line(
    random_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: list[str]
) -> None:
    refused("similarity", random_model, tmp_path, capsys, arguments, named)


def test_the_command_prints_the_curve_and_warns_of_foreign_frequencies(
    planted_tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "frequencies.csv"
    file.write_text("token,id,count\n" + "".join(f"nonsense,{token},{token + 1}\n" for token in range(1000)))
    command = ["similarity", "--model", str(planted_tiny), "--in-process", "--out", str(tmp_path / "runs")]
    assert submit_command([*command, "--frequencies", str(file), "--most-frequent", "800", "--bins", "100"]) == 0
    printed = capsys.readouterr()
    assert "800 of 800 texts" in printed.err
    lines = printed.out.splitlines()
    assert any(line.split()[-2:][0] == "peak" for line in lines if line.split())
    pairs = sum(int(line.split()[3]) for line in lines if " to " in line)
    assert pairs == 800 * 799
