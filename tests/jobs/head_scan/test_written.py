"""`head-scan` of the OV circuit: what it adds, what it leaves alone, and heads that are known to write (about 40 s)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.part_files import part_file, unstamped
from support.writers import COPYING, SUPPRESSING, write_planted_writers

from qkatlas.cluster.in_process import InProcessExecutor
from qkatlas.jobs.head_scan.job import HeadScanJob
from qkatlas.jobs.head_scan.spec import HeadScan
from qkatlas.jobs.head_scan.written import copy_suppression
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.loop.service import submit
from qkatlas.jobs.worker.ov import OV_SELF_WITH_KIN
from qkatlas.outputs.runs import soundness
from qkatlas.outputs.runs.reader import list_matrix
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.schemas import ov as schemas
from qkatlas.pipeline.circuit.labels import NONE, UNRELIABLE
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.planted.checkpoint import PlantedDesign, plant
from qkatlas.pipeline.planted.writers import with_writers

HEADS = ("L1H2", "L2H0")


def scan(folder: Path, out: Path, **spec: Any) -> Run:
    job = HeadScanJob(HeadScan(**spec), Model.open("test", folder))
    return submit(job, out=out, executor=InProcessExecutor(), gpus=0).run


def rows_of(run: Run, table: str, layer: int, head: int) -> pa.Table:
    return pq.read_table(part_file(run.folder, f"{table}/L{layer}H{head}/part-00000"), partitioning=None)


@pytest.fixture(scope="module")
def runs(worded_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    out = tmp_path_factory.mktemp("circuits")
    small = {"heads": HEADS, "prompts": 4, "length": 12}
    return {circuit: scan(worded_model, out, circuit=circuit, **small) for circuit in ("qk", "ov", "both")}


@pytest.mark.slow
def test_each_circuit_has_its_tables_and_they_are_the_same_in_both(runs: dict[str, Run]) -> None:
    of = {circuit: unstamped(run) for circuit, run in runs.items()}
    tables = {circuit: {path.split("/")[0] for path in paths} for circuit, paths in of.items()}
    written = {"ov_topk", "ov_bottomk", "ov_self", "ov_spectrum.parquet"}
    assert not written & tables["qk"]
    assert tables["ov"] == written | {"kin", "tokens.parquet", "heads.parquet"}
    assert tables["both"] == tables["qk"] | tables["ov"]
    for circuit in ("qk", "ov"):
        same = {path: sha256 for path, sha256 in of[circuit].items() if path != "heads.parquet"}
        assert same.items() <= of["both"].items()
    assert all(soundness.faults(run) == [] for run in runs.values())


@pytest.mark.slow
def test_a_run_of_qk_alone_is_called_what_it_always_was(runs: dict[str, Run]) -> None:
    for circuit, run in runs.items():
        manifest = run.manifest()
        assert manifest is not None
        spec = json.loads(json.dumps(dict(manifest.request.spec)))
        asked = {name: spec[name] for name in ("circuit", "unembed") if name in spec}
        assert asked == ({} if circuit == "qk" else {"circuit": circuit, "unembed": "folded"})
        assert ("offset" in spec, len({other.folder.name for other in runs.values()})) == (False, 3)


@pytest.mark.slow
def test_the_row_of_a_head_follows_from_its_tables(runs: dict[str, Run]) -> None:
    run = runs["both"]
    heads = pq.read_table(run.folder / "heads.parquet")
    assert heads.schema.equals(schemas.HEADS_THAT_WRITE, check_metadata=True)
    assert heads.drop(schemas.HEADS_THAT_WRITE.names[-len(schemas.HEAD_COLUMNS) - 1 :]).equals(
        pq.read_table(runs["qk"].folder / "heads.parquet").drop("label")
    )
    spectrum = pq.read_table(run.folder / "ov_spectrum.parquet")
    for row, (layer, head) in zip(heads.to_pylist(), ((1, 2), (2, 0)), strict=True):
        own = rows_of(run, "ov_self", layer, head)
        assert own.schema.equals(OV_SELF_WITH_KIN.columns, check_metadata=True)
        rank = own["self_rank"].to_numpy()
        assert row["ov_self_rank_mean"] == rank.mean()
        assert row["ov_self_top10_share"] == (rank <= 10).mean()
        assert row["ov_kin_z_mean"] == pytest.approx(own["kin_z"].to_numpy().mean(), rel=1e-5)
        lowest_VK = list_matrix(rows_of(run, "ov_bottomk", layer, head), "key_ids")
        suppresses_V = (lowest_VK == np.arange(len(lowest_VK))[:, None]).any(axis=1)
        assert row["ov_self_lowest10_share"] == suppresses_V.mean()
        best_VK = list_matrix(rows_of(run, "topk", layer, head), "key_ids")
        kin_VN = list_matrix(
            pq.read_table(part_file(run.folder, f"kin/L{layer}/part-00000"), partitioning=None), "kin_ids"
        )
        joined = [
            any(suppresses_V[key] for key in set(keys) & set(kin))
            for keys, kin in zip(best_VK.tolist(), kin_VN.tolist(), strict=True)
        ]
        assert row["copy_suppression"] == np.mean(joined)
        values = spectrum.filter((pa.compute.field("layer") == layer) & (pa.compute.field("head") == head)).to_pydict()
        real, imaginary = np.array(values["eigenvalue"]), np.array(values["eigenvalue_imaginary"])
        assert row["copying_score"] == pytest.approx(real.sum() / np.hypot(real, imaginary).sum())
        assert row["ov_self_energy"] == pytest.approx(real.sum())
        scores_VK = list_matrix(rows_of(run, "ov_bottomk", layer, head), "scores")
        assert (np.diff(scores_VK, axis=1) >= 0).all()
        assert scores_VK[:, 0].max() < 0  # true scores, not turned round


def test_copy_suppression_needs_a_look_alike_that_suppresses_itself() -> None:
    best_VK = np.array([[1, 2], [0, 2], [2, 0], [0, 1]])
    kin_VN = np.array([[1], [3], [0], [1]])
    assert copy_suppression(best_VK, kin_VN, np.array([False, True, False, False])) == 0.5
    assert copy_suppression(best_VK, kin_VN, np.array([True, False, False, False])) == 0.25
    assert copy_suppression(best_VK, kin_VN[:, :0], np.ones(4, bool)) is None


@pytest.mark.slow
def test_planted_writers_are_found_and_nothing_else(tmp_path: Path) -> None:
    folder = write_planted_writers(tmp_path / "model")
    rows = pq.read_table(scan(folder, tmp_path, prompts=24).folder / "heads.parquet").to_pylist()
    of = {Head(row["layer"], row["head"]): row for row in rows}
    labels = {str(head): row["label"] for head, row in of.items() if row["label"] not in (NONE, UNRELIABLE)}
    truth = json.loads((folder / "truth.json").read_text())["heads"]
    assert len(truth) == 10
    assert labels == truth
    assert of[COPYING]["copying_score"] > 0.9
    assert of[SUPPRESSING]["copying_score"] < -0.9
    assert all(abs(row["copying_score"]) < 0.6 for head, row in of.items() if head not in (COPYING, SUPPRESSING))


@pytest.mark.slow
def test_planted_heads_are_not_written_over() -> None:
    planted = plant(PlantedDesign(size="tiny"))
    with pytest.raises(ValueError, match="L1H5 is planted already"):
        with_writers(planted, copying=Head(2, 3), suppressing=Head(1, 5))
    more = with_writers(planted, copying=Head(2, 3), suppressing=Head(2, 5))
    same = [name for name, tensor in planted.tensors.items() if np.array_equal(tensor, more.tensors[name])]
    assert set(planted.tensors) - set(same) == {
        f"transformer.h.2.attn.{name}" for name in ("c_attn.weight", "c_attn.bias", "c_proj.weight")
    }


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"circuit": "OV"}, "--circuit 'OV' is unknown"),
        ({"circuit": "qk", "unembed": "raw"}, "--unembed raw has no meaning with --circuit qk"),
        ({"circuit": "ov", "offset": "2"}, "--offset 2 has no meaning with --circuit ov"),
        ({"circuit": "ov", "scores": "bilinear"}, "--scores bilinear has no meaning with --circuit ov"),
        ({"unembed": "sideways"}, "--unembed 'sideways' is unknown"),
    ],
)
def test_options_that_do_not_go_together_are_refused(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        HeadScan(**spec)
