"""The head scan: every column against brute force in float64, the planted truth, and itself after a fault."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import reference
from support.interruptions import Stopping, hashes
from support.part_files import part_file

from qkatlas.cluster.executor import Handle
from qkatlas.cluster.in_process import InProcessExecutor
from qkatlas.jobs.head_scan.job import HeadScanJob
from qkatlas.jobs.head_scan.spec import HeadScan
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.loop.clock import Clock
from qkatlas.jobs.loop.service import Result, submit
from qkatlas.jobs.loop.step import Context, stages
from qkatlas.jobs.main import run as submit_command
from qkatlas.jobs.worker.head_prompts import PromptInputs
from qkatlas.outputs.runs import soundness
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.schemas import head_scan as schemas_heads
from qkatlas.outputs.schemas import ov as schemas_ov
from qkatlas.pipeline.circuit.projection import head_weights
from qkatlas.pipeline.circuit.states import TokenStates
from qkatlas.pipeline.models.checkpoint import Checkpoint
from qkatlas.pipeline.models.head import Head


def scan(folder: Path, out: Path, executor: Any = None, **spec: Any) -> Result:
    job = HeadScanJob(HeadScan(**spec), Model.open("test", folder))
    return submit(job, out=out, executor=executor or InProcessExecutor(), gpus=0)


def rows_of(run: Run, table: str, layer: int, head: int) -> pa.Table:
    return pq.read_table(part_file(run.folder, f"{table}/L{layer}H{head}/part-00000"), partitioning=None)


@pytest.fixture(scope="module")
def random_scan(random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return scan(random_model, tmp_path_factory.mktemp("scan")).run


def normalised(folder: Path, layer: int) -> np.ndarray:
    return reference.normalised(TokenStates(Checkpoint.open(folder), "mlp", threads=1).advance_to(layer))


def kin_by_brute_force(folder: Path, layer: int) -> np.ndarray:
    unit_VD = reference.unit(TokenStates(Checkpoint.open(folder), "mlp", threads=1).advance_to(layer))
    cosines_VV = unit_VD @ unit_VD.T
    np.fill_diagonal(cosines_VV, -np.inf)
    return np.argsort(-cosines_VV, axis=1, kind="stable")[:, :16]


@pytest.mark.slow
@pytest.mark.parametrize(("layer", "head"), [(0, 3), (1, 5), (2, 0)])
def test_every_column_equals_brute_force(
    random_model: Path, random_scan: Run, reference_scores: Callable[..., np.ndarray], layer: int, head: int
) -> None:
    scores_VV = reference_scores(random_model, layer, head)
    own_V, mean_V, std_V = np.diag(scores_VV), scores_VV.mean(1), scores_VV.std(1)
    kin_VN = kin_by_brute_force(random_model, layer)
    stored = pq.read_table(part_file(random_scan.folder, f"kin/L{layer}/part-00000"), partitioning=None)
    assert (np.array(stored["kin_ids"].to_pylist()) == kin_VN).mean() > 0.999

    self_z_V = (own_V - mean_V) / std_V
    kin_z_V = (np.take_along_axis(scores_VV, kin_VN, 1).mean(1) - mean_V) / std_V
    table = rows_of(random_scan, "self", layer, head)
    np.testing.assert_allclose(table["self_z"].to_numpy(), self_z_V, atol=2e-4)
    np.testing.assert_allclose(table["kin_z"].to_numpy(), kin_z_V, atol=2e-4)
    np.testing.assert_allclose(table["suppression_index"].to_numpy(), kin_z_V - self_z_V, atol=3e-4)

    heads = pq.read_table(random_scan.folder / "heads.parquet")
    (row,) = [row for row in heads.to_pylist() if (row["layer"], row["head"]) == (layer, head)]
    rank_V = 1 + (scores_VV > own_V[:, None]).sum(1)
    close = {"rel": 1e-4, "abs": 1e-4}
    assert row["self_rank_mean"] == pytest.approx(rank_V.mean(), rel=1e-3)
    assert row["self_rank_median"] == pytest.approx(np.median(rank_V), abs=1)
    assert row["self_top1_share"] == pytest.approx((rank_V == 1).mean(), abs=0.01)
    assert row["self_top10_share"] == pytest.approx((rank_V <= 10).mean(), abs=0.01)
    assert row["self_top1024_share"] == 1
    assert row["self_mrr"] == pytest.approx((1 / rank_V).mean(), rel=1e-2)
    assert row["self_z_mean"] == pytest.approx(self_z_V.mean(), **close)
    assert row["kin_z_mean"] == pytest.approx(kin_z_V.mean(), **close)
    index_V = kin_z_V - self_z_V
    assert row["suppression_index_mean"] == pytest.approx(index_V.mean(), **close)
    assert row["suppression_index_positive_share"] == pytest.approx((index_V > 0).mean(), abs=0.01)
    half = 1.96 * index_V.std() / np.sqrt(len(index_V))
    assert row["suppression_index_low"] == pytest.approx(index_V.mean() - half, abs=0.15 * half)
    assert row["suppression_index_high"] == pytest.approx(index_V.mean() + half, abs=0.15 * half)

    factors = head_weights(Checkpoint.open(random_model), Head(layer, head), scores="bilinear").w_qk_D2H
    w_DD = factors[:, :8] @ factors[:, 8:].T
    eigenvalues, vectors = np.linalg.eigh((w_DD + w_DD.T) / 2)
    energy = (normalised(random_model, layer) @ vectors) ** 2 * eigenvalues
    assert row["positive_self_energy"] == pytest.approx(energy[:, eigenvalues > 0].sum(1).mean(), rel=1e-4)
    assert row["negative_self_energy"] == pytest.approx(energy[:, eigenvalues < 0].sum(1).mean(), rel=1e-4)
    assert row["sym_norm"] == pytest.approx(np.linalg.norm((w_DD + w_DD.T) / 2))
    assert row["max_singular_value_skew"] == pytest.approx(np.linalg.norm((w_DD - w_DD.T) / 2, 2))
    for name in ("positive_self_energy", "negative_self_energy", "n_negative_top_h"):
        expected = (row[name] - row[f"{name}_null_mean"]) / row[f"{name}_null_std"]
        assert row[f"{name}_null_z"] == pytest.approx(expected)
    spectrum = pq.read_table(
        random_scan.folder / "spectrum.parquet", filters=[("layer", "==", layer), ("head", "==", head)]
    )
    largest = np.sort(eigenvalues)[::-1]
    np.testing.assert_allclose(spectrum["eigenvalue"].to_numpy()[:8], largest[:8], atol=1e-6)
    np.testing.assert_allclose(spectrum["eigenvalue"].to_numpy()[-8:], largest[-8:], atol=1e-6)
    singular = np.linalg.svd(w_DD, compute_uv=False)[:8]
    assert spectrum["singular_value"].to_pylist()[:8] == pytest.approx(singular.tolist())
    assert spectrum["singular_value"].to_pylist()[8:] == [None] * 8


def test_tables_follow_their_schemas_and_cover_every_head(random_scan: Run) -> None:
    heads = pq.read_table(random_scan.folder / "heads.parquet")
    assert heads.schema.equals(schemas_ov.HEADS_THAT_WRITE, check_metadata=True)
    assert list(zip(heads["layer"].to_pylist(), heads["head"].to_pylist(), strict=True)) == [
        (layer, head) for layer in range(3) for head in range(8)
    ]
    assert pq.read_schema(random_scan.folder / "spectrum.parquet").equals(schemas_heads.SPECTRUM, check_metadata=True)
    assert pq.read_table(random_scan.folder / "spectrum.parquet").num_rows == 24 * 16
    own = ds.dataset(random_scan.folder / "self", partitioning="hive").to_table()
    assert own.num_rows == 24 * 211
    assert rows_of(random_scan, "topk", 2, 7).schema.field("scores").type == pa.list_(pa.float32(), 10)
    assert soundness.faults(random_scan) == []


def test_a_scan_agrees_with_full_vocab(random_model: Path, random_scan: Run, tmp_path: Path) -> None:
    from qkatlas.jobs.full_vocab.job import FullVocabJob
    from qkatlas.jobs.full_vocab.spec import FullVocab

    job = FullVocabJob(FullVocab(head="L2H4", top_k=10, shards=3), Model.open("test", random_model))
    single = submit(job, out=tmp_path, executor=InProcessExecutor(), gpus=0).run
    for name in ("topk", "self"):
        expected = ds.dataset(single.folder / name, partitioning=None).to_table().sort_by("token_id")
        found = rows_of(random_scan, name, 2, 4)
        assert found.select(expected.column_names).equals(expected)


@pytest.mark.slow
def test_the_planted_target_stands_out(planted_tiny: Path, tmp_path: Path) -> None:
    run = scan(planted_tiny, tmp_path).run
    rows = pq.read_table(run.folder / "heads.parquet").to_pylist()
    # Self-suppression that is semantic: kin above the rest of the vocabulary, the token itself below it.
    found = [
        (row["layer"], row["head"])
        for row in rows
        if row["kin_z_mean"] > 0.3 and row["self_z_mean"] < -0.3 and row["suppression_index_low"] > 0
    ]
    assert found == [(1, 5)]
    target = rows[8 + 5]
    assert target["negative_self_energy_null_z"] < -10
    # The anti-self decoy has a higher index, but does not prefer kin.
    assert max(rows, key=lambda row: row["suppression_index_mean"])["kin_z_mean"] < 0
    prefer_kin = [row for row in rows if row["kin_z_mean"] > 0]
    assert max(prefer_kin, key=lambda row: row["suppression_index_mean"]) is target


@pytest.mark.slow
@pytest.mark.parametrize("shards", [0, 3, 6, 18, 31])
def test_a_stopped_scan_ends_with_the_same_files(
    random_model: Path, random_scan: Run, tmp_path: Path, shards: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        scan(random_model, tmp_path, executor=Stopping(shards))
    result = scan(random_model, tmp_path)
    assert result.computed == 32 - shards
    assert hashes(result.run) == hashes(random_scan)


@pytest.mark.slow
def test_damaged_kin_are_found_again_and_heads_kept(random_model: Path, random_scan: Run, tmp_path: Path) -> None:
    run = scan(random_model, tmp_path).run
    part_file(run.folder, "kin/L1/part-00000").write_bytes(b"")
    result = scan(random_model, tmp_path)
    assert result.computed == 1
    assert hashes(result.run) == hashes(random_scan)


@pytest.mark.slow
@pytest.mark.parametrize("shards", [9, 14, 18, 25])
def test_a_scan_goes_on_where_states_have_other_bits(
    random_model: Path, random_scan: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        scan(random_model, tmp_path, executor=Stopping(shards))
    advance_to = TokenStates.advance_to

    def as_on_another_processor(states: TokenStates, layer: int) -> np.ndarray:
        values_VD = advance_to(states, layer).copy()
        values_VD[0, 0] = np.nextafter(values_VD[0, 0], np.inf, dtype=np.float32)
        return values_VD

    monkeypatch.setattr(TokenStates, "advance_to", as_on_another_processor)
    result = scan(random_model, tmp_path)
    assert result.failures == {}
    # A layer's tables stand on the same states: those of the first processor, or all of the second.
    mixed, first, second = (hashes(run) for run in (result.run, random_scan, scan(random_model, tmp_path / "new").run))
    for layer in range(3):
        paths = [path for path in mixed if f"/L{layer}H" in path or f"/L{layer}/" in path]
        assert any(all(mixed[path] == whole.get(path) for path in paths) for whole in (first, second))


@pytest.mark.slow
def test_heads_whose_kin_failed_are_listed_and_the_other_layers_finished(
    random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qkatlas.jobs.loop import work

    write_part = work.write_part

    def full(folder: Path, path: str, table: pa.Table) -> Any:
        if path.startswith("kin/L1/"):
            raise OSError(28, "No space left on device")
        return write_part(folder, path, table)

    monkeypatch.setattr(work, "write_part", full)
    result = scan(random_model, tmp_path)
    assert set(result.failures) == {"L1-kin-000000", *(f"L1H{head}" for head in range(8))}
    assert result.computed == 23
    monkeypatch.undo()
    assert scan(random_model, tmp_path).computed == 9


def test_the_next_layers_kin_are_found_beside_a_layers_heads(random_model: Path) -> None:
    job = HeadScanJob(HeadScan(heads="L0H1,L1H2,L1H3,L2H4"), Model.open("test", random_model))
    names = [[shard.name for step in stage for shard in step.shards] for stage in stages(job.steps())]
    assert [[name for name in stage if not name.startswith(("prompts", "sequences"))] for stage in names] == [
        ["L0-kin-000000"], ["L0H1", "L1-kin-000000"], ["L1H2", "L1H3", "L2-kin-000000"], ["L2H4"]
    ]  # fmt: skip
    assert names[0][0] == "sequences-0"


def test_the_models_weights_are_shared_once(worded_model: Path, tmp_path: Path) -> None:
    class Counting(InProcessExecutor):
        def put(self, value: Any) -> Handle:
            shared.append(value)
            return super().put(value)

    shared: list[Any] = []
    result = scan(worded_model, tmp_path, heads="L0H1", prompts=3, length=8, executor=Counting())
    assert {"prompts-000000", "sequences-0"} < result.run.receipts().keys()
    assert sum(isinstance(value, PromptInputs) for value in shared) == 1
    assert len(shared) == 3, "the layer's unit states and its states with kin are the others"


def test_kin_of_other_states_are_refused(random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = scan(random_model, tmp_path, heads="L1H0").run
    model = Model.open("test", random_model)
    context = Context(run=run, threads=1, clock=Clock())

    def heads_of_layer() -> Any:
        (step,) = [step for step in HeadScanJob(HeadScan(heads="L1H0"), model).steps() if step.kind == "heads"]
        return step.share(context)

    assert heads_of_layer().kin_ids_VN.shape == (211, 16)
    advance_to = TokenStates.advance_to
    monkeypatch.setattr(TokenStates, "advance_to", lambda states, layer: advance_to(states, layer) + np.float32(1e-3))
    assert heads_of_layer() is None


@pytest.mark.slow
def test_a_subset_of_heads_gives_the_same_rows(random_model: Path, random_scan: Run, tmp_path: Path) -> None:
    run = scan(random_model, tmp_path, heads=("L0H7", "L2H3")).run
    whole = pq.read_table(random_scan.folder / "heads.parquet").to_pylist()
    assert pq.read_table(run.folder / "heads.parquet").to_pylist() == [whole[7], whole[19]]


@pytest.mark.parametrize("size", [1, 2])
def test_vocabularies_too_small_for_statistics(
    make_random_model: Callable[..., Path], tmp_path: Path, size: int
) -> None:
    run = scan(make_random_model(7, vocab_size=size), tmp_path, heads=("L1H0",), top_k=1).run
    (row,) = pq.read_table(run.folder / "heads.parquet").to_pylist()
    assert row["self_rank_mean"] >= 1
    assert (row["suppression_index_mean"] is None) == (size == 1)


@pytest.mark.slow
def test_the_command_prints_the_heads_that_suppress_themselves(
    planted_tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["head-scan", "--model", str(planted_tiny), "--out", str(tmp_path), "--in-process", "--layers", "1"]
    assert submit_command(command) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].startswith("L1H5")
    assert printed[1].endswith("self-suppressing semantic")
    assert any(line.startswith("18 shards in") for line in printed)
    assert submit_command([*command[:-1], "9"]) == 2
    assert "--layers '9' is outside the model" in capsys.readouterr().err
