"""`--exclude-hubs`: lists and graphs without the keys that many rows rank first, which the run names."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from support.part_files import unstamped

from qkatlas.cluster.in_process import InProcessExecutor
from qkatlas.jobs.communities.job import CommunitiesJob
from qkatlas.jobs.communities.spec import Communities
from qkatlas.jobs.full_vocab.job import FullVocabJob
from qkatlas.jobs.full_vocab.spec import FullVocab
from qkatlas.jobs.head_scan.job import HeadScanJob
from qkatlas.jobs.head_scan.spec import HeadScan
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.source import SourceRun
from qkatlas.jobs.loop.service import submit
from qkatlas.jobs.main import run as command
from qkatlas.outputs.runs.run import Run
from qkatlas.pipeline.text.vocabulary import visible

SHARE = 0.03


def compute(job: Any, out: Path) -> Run:
    result = submit(job, out=out, executor=InProcessExecutor(), gpus=0)
    assert not result.failures
    return result.run


def one_head(folder: Path, out: Path, **spec: Any) -> Run:
    return compute(FullVocabJob(FullVocab(head="L1H2", **spec), Model.open("test", folder)), out)


def table(run: Run, name: str) -> pa.Table:
    return ds.dataset(Path(run.folder) / name).to_table().sort_by("token_id")


def lists(run: Run) -> tuple[np.ndarray, np.ndarray]:
    top = table(run, "topk")
    return tuple(np.array(top[name].to_pylist()) for name in ("key_ids", "scores"))  # type: ignore[return-value]


def digests(run: Run, name: str) -> list[str]:
    return [
        hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted((Path(run.folder) / name).rglob("*.parquet"))
    ]


@pytest.fixture
def whole(random_model: Path, tmp_path: Path) -> Run:
    """All keys of every row."""
    return one_head(random_model, tmp_path, top_k=len(Model.open("test", random_model).vocabulary.spellings))


def test_lists_are_those_of_all_rows_without_the_hubs(whole: Run, random_model: Path, tmp_path: Path) -> None:
    ids_VV, scores_VV = lists(whole)
    counts = np.bincount(ids_VV[:, 0], minlength=len(ids_VV))
    expected = [key for key in np.argsort(-counts, kind="stable") if counts[key] >= SHARE * len(ids_VV)]
    assert 1 < len(expected) < 20
    run = one_head(random_model, tmp_path, top_k=5, exclude_hubs=SHARE, shards=3)
    hubs = pq.read_table(Path(run.folder) / "hubs.parquet").to_pylist()
    assert [(row["layer"], row["head"], row["token_id"], row["rows"]) for row in hubs] == [
        (1, 2, key, counts[key]) for key in expected
    ]
    assert [row["share"] for row in hubs] == [counts[key] / len(ids_VV) for key in expected]
    kept_VV = ~np.isin(ids_VV, expected)
    found_VK, found_scores_VK = lists(run)
    for row, kept in enumerate(kept_VV):
        np.testing.assert_array_equal(found_VK[row], ids_VV[row][kept][:5])
        np.testing.assert_array_equal(found_scores_VK[row], scores_VV[row][kept][:5])
    # Ranks, means and best others count every key, as they do without the option.
    assert table(run, "self").equals(table(whole, "self"))


@pytest.mark.slow
def test_the_option_is_part_of_what_a_run_is_and_shards_are_not(random_model: Path, tmp_path: Path) -> None:
    plain = one_head(random_model, tmp_path, top_k=5)
    manifest = plain.manifest()
    assert manifest is not None
    assert "exclude_hubs" not in manifest.request.spec
    found = [one_head(random_model, tmp_path / str(n), top_k=5, exclude_hubs=SHARE, shards=n) for n in (1, 4)]
    names = {run.folder.name for run in found}
    assert len(names) == 1
    assert plain.folder.name not in names
    first, second = (np.concatenate(lists(run), axis=1) for run in found)
    np.testing.assert_array_equal(first, second)
    # The same request cut otherwise is finished; one whose parts are gone is computed anew by the cut it was made with.
    again = FullVocabJob(
        FullVocab(head="L1H2", top_k=5, exclude_hubs=SHARE, shards=2), Model.open("test", random_model)
    )
    assert submit(again, out=tmp_path / "4", executor=InProcessExecutor(), gpus=0).computed == 0
    before = digests(found[1], "topk")
    for file in [
        *(Path(found[1].folder) / "best").rglob("*.parquet"),
        *(Path(found[1].folder) / "topk").rglob("*-00001*"),
    ]:
        file.unlink()
    redone = submit(again, out=tmp_path / "4", executor=InProcessExecutor(), gpus=0)
    assert redone.computed >= 4
    assert digests(redone.run, "topk") == before


def test_a_share_that_nobody_reaches_leaves_nothing_out(random_model: Path, tmp_path: Path) -> None:
    plain, other = (
        one_head(random_model, tmp_path, top_k=5),
        one_head(random_model, tmp_path, top_k=5, exclude_hubs=1.0),
    )
    assert unstamped(plain).items() <= unstamped(other).items()
    assert pq.read_table(Path(other.folder) / "hubs.parquet").num_rows == 0


@pytest.mark.slow
def test_a_head_scan_leaves_the_same_keys_out(random_model: Path, tmp_path: Path) -> None:
    run = one_head(random_model, tmp_path, top_k=5, exclude_hubs=SHARE)
    scans = [
        compute(
            HeadScanJob(
                HeadScan(heads=("L1H1", "L1H2"), top_k=5, exclude_hubs=share), Model.open("test", random_model)
            ),
            tmp_path,
        )
        for share in (SHARE, None)
    ]
    place = "topk/L1H2"
    assert ds.dataset(Path(scans[0].folder) / place).to_table().equals(ds.dataset(Path(run.folder) / place).to_table())
    hubs = pq.read_table(Path(scans[0].folder) / "hubs.parquet").to_pylist()
    assert [row for row in hubs if row["head"] == 2] == pq.read_table(Path(run.folder) / "hubs.parquet").to_pylist()
    assert {row["head"] for row in hubs} == {1, 2}
    heads = [pq.read_table(Path(scan.folder) / "heads.parquet") for scan in scans]
    assert heads[0].equals(heads[1])  # hub_id and hub_share are of all keys
    assert not (Path(scans[1].folder) / "hubs.parquet").exists()


@pytest.mark.slow
def test_a_graph_has_no_links_to_hubs(random_model: Path, tmp_path: Path) -> None:
    source = one_head(random_model, tmp_path, top_k=40)
    opened = SourceRun.open(tmp_path, source.folder.name)
    run = compute(
        CommunitiesJob(Communities(run="x", neighbours=4, symmetrise="directed", exclude_hubs=SHARE), opened), tmp_path
    )
    hubs = {row["token_id"] for row in pq.read_table(Path(run.folder) / "hubs.parquet").to_pylist()}
    assert hubs
    ids_VK, _ = lists(source)
    expected = {
        (row, key)
        for row, keys in enumerate(ids_VK.tolist())
        for key in [k for k in keys if k != row and k not in hubs][:4]
    }
    edges = pq.read_table(Path(run.folder) / "edges.parquet")
    assert set(zip(edges["source_id"].to_pylist(), edges["target_id"].to_pylist(), strict=True)) == expected
    with pytest.raises(ValueError, match=r"--neighbours 39 is too many beside the \d+ keys that --exclude-hubs 0.03"):
        compute(CommunitiesJob(Communities(run="x", neighbours=39, exclude_hubs=SHARE), opened), tmp_path)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--exclude-hubs", "0"], ["--exclude-hubs 0", "0.01 to 1"]),
        (["--exclude-hubs", "half"], ["--exclude-hubs", "half"]),
        (["--exclude-hubs", "--top-k", "1020"], ["--top-k 1020", "--exclude-hubs 0.05", "20", "1024"]),
    ],
)
def test_a_bad_share_is_one_line(
    planted_tiny: Path, arguments: list[str], named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["full-vocab", "--model", str(planted_tiny), "--in-process", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.err.strip().count("\n") == 0
    for text in named:
        assert text in printed.err


@pytest.mark.slow
def test_the_command_names_what_it_left_out(
    planted_tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["full-vocab", "--model", str(planted_tiny), "--in-process", "--out", str(tmp_path)]

    def printed_with(*share: str) -> str:
        assert command([*arguments, "--exclude-hubs", *share]) == 0
        return " ".join(capsys.readouterr().out.split())

    assert "no key was left out: none is the best key of 100% of rows or more" in printed_with("1")
    printed = printed_with("0.01")
    (folder,) = [path for path in tmp_path.iterdir() if pq.read_table(path / "hubs.parquet").num_rows]
    first = pq.read_table(folder / "hubs.parquet").to_pylist()[0]
    assert "left out as hubs, the best key of 1% of rows or more: " in printed
    assert f"{visible(first['text'])} {first['share']:.0%}" in printed
    assert "of 5% of rows or more" in printed_with()
