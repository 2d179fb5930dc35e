"""`submit diff`: a run and itself, two states of one model, two seeds; against sets and whole tables."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest

from qkatlas.jobs.diff.common import ABSENT
from qkatlas.jobs.diff.compare import overlap
from qkatlas.jobs.diff.match import match, overlaps
from qkatlas.jobs.inputs.resolve import write_planted
from qkatlas.jobs.main import run
from qkatlas.pipeline.models.head import Head
from qkatlas.pipeline.planted.checkpoint import PlantedDesign


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans of two planted seeds, whose vocabularies share the words of categories."""
    folder = tmp_path_factory.mktemp("seeds")
    for seed in (0, 1):
        write_planted(PlantedDesign(size="small", seed=seed), folder / f"model{seed}")
        command = ["head-scan", "--model", str(folder / f"model{seed}"), "--circuit", "qk", "--prompts", "24"]
        assert run([*command, "--in-process", "--quiet", "--out", str(folder / f"runs{seed}")]) == 0
    return folder


def name_of(folder: Path) -> str:
    (path,) = (path for path in folder.iterdir() if path.is_dir())
    return str(path)


def compared(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run(["diff", *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.slow
def test_a_run_differs_from_itself_in_nothing(seeds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = name_of(seeds / "runs0")
    found = compared(capsys, own, own)
    assert found["same_weights"]
    assert found["settings"] == {}
    assert found["common_tokens"] == 2048
    assert len(found["heads"]) == len(found["matches"]) == 36
    for head in found["heads"]:
        figures = [
            head[f"{name}{end}"] for name in ("changed", "rank_shift", "z_shift") for end in ("", "_low", "_high")
        ]
        assert figures == [0] * 9
        assert head["moved"] == []
        assert head["match_distance"] == 0
    for pair in found["matches"]:
        assert pair["head"] == pair["other"]
        assert pair["overlap"] == 1
        assert pair["next_distance"] > 0


@pytest.mark.slow
def test_two_seeds_match_in_the_planted_heads(seeds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = [json.loads((seeds / f"model{seed}" / "truth.json").read_text())["heads"] for seed in (0, 1)]
    found = compared(capsys, name_of(seeds / "runs0"), name_of(seeds / "runs1"))
    assert not found["same_weights"]
    matched = {pair["head"]: pair["other"] for pair in found["matches"]}
    assert len(truth[0]) == 8
    assert {head: truth[1].get(matched[head]) for head in truth[0]} == truth[0]
    assert found["unrelated"]["changed_mean"] > 0.9
    changed = {head["match"]: head["changed"] for head in found["heads"]}
    assert np.median(list(changed.values())) > 0.95


@pytest.mark.slow
def test_two_states_of_one_model_equal_sets_and_whole_tables(
    planted_tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for states in ("mlp", "bos"):
        command = ["full-vocab", "--model", str(planted_tiny), "--states", states, "--top-k", "12", "--shards", "2"]
        assert run([*command, "--in-process", "--quiet", "--out", str(tmp_path / states)]) == 0
    names = [name_of(tmp_path / states) for states in ("mlp", "bos")]
    found = compared(capsys, *names, "--moved", "3")
    assert found["settings"] == {"states": ["mlp", "bos"]}
    assert found["matches"] == []
    (head,) = found["heads"]
    keys = [ds.dataset(f"{name}/topk").to_table().sort_by("token_id")["key_ids"].to_pylist() for name in names]
    expected = [1 - len(set(one) & set(other)) / 12 for one, other in zip(*keys, strict=True)]
    assert head["changed"] == pytest.approx(np.mean(expected))
    assert head["changed_high"] - head["changed"] == pytest.approx(1.96 * np.std(expected) / 32, rel=1e-3)
    ranks = [
        ds.dataset(f"{name}/self").to_table().sort_by("token_id")["self_rank"].to_numpy().astype(float) / 1024
        for name in names
    ]
    shift = ranks[1] - ranks[0]
    assert head["rank_shift"] == pytest.approx(shift.mean())
    moved = [one["token_id"] for one in head["moved"]]
    assert moved == np.argsort(-np.abs(shift), kind="stable")[:3].tolist()
    assert run(["diff", *names, "--csv"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert float(row["changed"]) == head["changed"]
    assert run(["diff", *names]) == 0
    assert "states: mlp -> bos" in capsys.readouterr().out


@pytest.mark.slow
def test_what_cannot_be_compared_is_refused(
    planted_tiny: Path, make_random_model: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--in-process", "--quiet", "--out", str(tmp_path)]
    for arguments in (["--model", str(planted_tiny)], ["--model", str(planted_tiny), "--circuit", "ov"]):
        assert run(["full-vocab", *arguments, *common]) == 0
    assert run(["full-vocab", "--model", str(make_random_model(9)), *common]) == 0
    qk, ov, other = _by_kind(tmp_path)
    for arguments, words in (
        ([qk, ov], ["no QK tables", "--circuit qk or both"]),
        ([qk, other], ["no token in common"]),
        ([qk, "nothing"], ["'nothing'"]),
        ([qk, qk, "--json", "--csv"], ["--json and --csv"]),
        ([qk, qk, "--top", "0"], ["--top 0"]),
    ):
        assert run(["diff", *map(str, arguments), "--out", str(tmp_path)]) == 2
        error = capsys.readouterr().err
        assert all(word in error for word in words), error


def _by_kind(folder: Path) -> list[Path]:
    kinds: dict[str, Path] = {}
    for path in folder.iterdir():
        if path.is_dir():
            size = json.loads((path / "manifest.json").read_text())["model"]["architecture"]["vocab_size"]
            kinds["other" if size != 1024 else "qk" if (path / "topk").exists() else "ov"] = path
    return [kinds[kind] for kind in ("qk", "ov", "other")]


def test_overlap_leaves_out_what_the_other_run_does_not_have() -> None:
    a = int(ABSENT)
    one = np.array([[0, 1, 2], [0, a, a], [a, a, a], [3, 1, a]])
    other = np.array([[2, 1, 5], [0, 4, 5], [1, 2, 3], [a, 7, 3]])
    np.testing.assert_allclose(overlap(one, other), [2 / 3, 1, np.nan, 1 / 2])
    np.testing.assert_array_equal(overlap(one, other), overlap(other, one))


def test_heads_in_another_order_are_matched_by_whom_they_attend_to() -> None:
    rng = np.random.default_rng(0)
    keys = [rng.permuted(np.tile(np.arange(60), (40, 1)), axis=1)[:, :5] for _ in range(6)]
    order = rng.permutation(6)
    overlap_MN = overlaps(keys, [keys[at] for at in order], 60)
    heads = [Head(0, index) for index in range(6)]
    found = match(heads, heads, overlap_MN, None, None)
    assert [order[pair.other.index] for pair in found] == list(range(6))
    assert all(pair.distance == 0 and pair.overlap == 1 for pair in found)
    assert all(pair.next_distance is not None and pair.next_distance > 0.5 for pair in found)
    some = match(heads, heads[:4], overlap_MN[:, :4], None, None)  # heads that the other run does not have stay alone
    assert len(some) == 4
