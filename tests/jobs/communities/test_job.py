"""The communities job: its tables against the source run, the planted truth, and itself under faults."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file
from sklearn.metrics import adjusted_rand_score
from support.part_files import part_file

from qkatlas.cluster.executor import Capacity, Grant, Node
from qkatlas.cluster.in_process import InProcessExecutor
from qkatlas.jobs.communities.job import CommunitiesJob
from qkatlas.jobs.communities.spec import Communities
from qkatlas.jobs.full_vocab.job import FullVocabJob
from qkatlas.jobs.full_vocab.spec import FullVocab
from qkatlas.jobs.inputs.frequencies import Frequencies
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.resolve import write_planted
from qkatlas.jobs.inputs.source import SourceRun
from qkatlas.jobs.loop.result import Result
from qkatlas.jobs.loop.service import submit
from qkatlas.jobs.main import run as submit_command
from qkatlas.outputs.runs import soundness, store
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.schemas import communities as schemas_graph
from qkatlas.pipeline.graph.neighbours import Graph
from qkatlas.pipeline.planted.checkpoint import PlantedDesign


def full_vocab(folder: Path, out: Path, **spec: Any) -> Run:
    job = FullVocabJob(FullVocab(**{"top_k": 20, **spec}), Model.open("test", folder))
    return submit(job, out=out, executor=InProcessExecutor(), gpus=0).run


def communities(source: Run, tokens: np.ndarray | None = None, executor: Any = None, **spec: Any) -> Result:
    opened = SourceRun.open(source.folder.parent, source.folder.name)
    if tokens is not None:
        spec["frequencies"] = Frequencies(Path("f.csv"), tuple(tokens.tolist()), ("",) * len(tokens))
    job = CommunitiesJob(Communities(run=source.folder.name, **spec), opened)
    return submit(job, out=source.folder.parent, executor=executor or InProcessExecutor(), gpus=0)


def rows(run: Run, name: str) -> pa.Table:
    return pq.read_table(run.folder / f"{name}.parquet")


def hashes(run: Run) -> dict[str, str]:
    return {
        file.relative_to(run.folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(Path(run.folder).rglob("*.parquet"))
    }


def planted_ari(model: Path, run: Run) -> float:
    """Adjusted Rand index of the planted category words."""
    truth = json.loads((model / "truth.json").read_text(encoding="utf-8"))
    category = {
        token: place
        for place, entry in enumerate(truth["categories"])
        for word in entry["words"]
        for token in word["token_ids"]
    }
    found = rows(run, "communities")["community"].to_numpy()
    return float(adjusted_rand_score(list(category.values()), found[list(category)]))


@pytest.fixture(scope="module")
def source(planted_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A full-vocab run; jobs write their runs beside it."""
    return full_vocab(planted_tiny, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def finished(source: Run) -> Run:
    return communities(source, restarts=3).run


@pytest.mark.parametrize("symmetrise", ["union", "mutual", "directed"])
def test_edges_equal_loops_over_the_source_table(source: Run, symmetrise: str) -> None:
    top = ds.dataset(source.folder / "topk").to_table().to_pylist()
    links = {row["token_id"]: [key for key in row["key_ids"] if key != row["token_id"]][:5] for row in top}
    expected: dict[tuple[int, int], float] = {}
    for token, keys in links.items():
        for key in keys:
            back = token in links[key]
            if symmetrise == "directed":
                expected[token, key] = 1.0
            elif back or symmetrise == "union":
                expected[min(token, key), max(token, key)] = 1.0 if back else 0.5

    run = communities(source, neighbours=5, symmetrise=symmetrise, restarts=1).run
    stored = rows(run, "edges")
    assert stored.schema.equals(schemas_graph.EDGES, check_metadata=True)
    pairs = list(zip(stored["source_id"].to_pylist(), stored["target_id"].to_pylist(), strict=True))
    assert pairs == sorted(expected)
    assert stored["weight"].to_pylist() == [expected[pair] for pair in pairs]
    degrees = rows(run, "communities")["degree"].to_pylist()
    ends = np.bincount([token for pair in expected for token in pair], minlength=len(top))
    assert degrees == ends.tolist()
    (shard,) = run.manifest().shards
    assert shard.measures.isolated_tokens == degrees.count(0)
    assert shard.measures.edges == len(expected)


def test_tables_follow_their_schemas_and_each_other(source: Run, finished: Run) -> None:
    tokens, restarts = rows(finished, "communities"), rows(finished, "restarts")
    assert tokens.schema.equals(schemas_graph.COMMUNITIES, check_metadata=True)
    assert restarts.schema.equals(schemas_graph.RESTARTS, check_metadata=True)
    assert tokens["token_id"].to_pylist() == list(range(1024))
    own = [
        pq.read_table(part_file(finished.folder, f"memberships/restart={number}/part-00000"), partitioning=None)
        for number in range(3)
    ]
    partitions = [table["community"].to_numpy() for table in own]
    quality = restarts["quality"].to_pylist()
    best = restarts["is_best"].to_pylist().index(True)
    assert best == quality.index(max(quality))
    assert tokens["community"].to_pylist() == partitions[best].tolist()
    sizes = np.bincount(partitions[best])
    assert (np.diff(sizes) <= 0).all()
    assert restarts["n_communities"].to_pylist()[best] == (sizes > 1).sum()
    for number, row in enumerate(restarts.to_pylist()):
        others = [adjusted_rand_score(partitions[number], other) for at, other in enumerate(partitions) if at != number]
        assert row["ari_best"] == pytest.approx(adjusted_rand_score(partitions[number], partitions[best]))
        assert row["ari_mean"] == pytest.approx(np.mean(others))
    assert np.isfinite(tokens["x"].to_numpy()).all()
    assert np.isfinite(tokens["y"].to_numpy()).all()
    manifest = finished.manifest()
    assert manifest.request.model == source.manifest().request.model
    assert manifest.request.spec["source"] == source.manifest().request.run_id
    assert soundness.faults(finished) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("size", "noise", "least"), [("tiny", 0.0, 0.99), ("small", 0.0, 0.99), ("tiny", 0.3, 0.95)])
def test_planted_categories_are_recovered(size: str, seed: int, noise: float, least: float, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write_planted(PlantedDesign(size=size, seed=seed, noise=noise), folder)
    run = communities(full_vocab(folder, tmp_path / "runs"), restarts=2).run
    assert planted_ari(folder, run) >= least


def test_a_head_without_categories_does_not_give_the_planted_ones(planted_tiny: Path, tmp_path: Path) -> None:
    run = communities(full_vocab(planted_tiny, tmp_path, head="L1H3"), restarts=1).run  # a previous-token head
    assert planted_ari(planted_tiny, run) < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_a_permuted_vocabulary_gives_the_same_partition(noise: float, tmp_path: Path) -> None:
    folder, moved = tmp_path / "model", tmp_path / "moved"
    write_planted(PlantedDesign(size="tiny", noise=noise), folder)
    new_V = np.random.default_rng(7).permutation(1024)
    shutil.copytree(folder, moved)
    tensors = load_file(folder / "model.safetensors")
    shuffled = np.empty_like(tensors["transformer.wte.weight"])
    shuffled[new_V] = tensors["transformer.wte.weight"]
    save_file({**tensors, "transformer.wte.weight": shuffled}, moved / "model.safetensors", metadata={"format": "pt"})
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["model"]["vocab"] = {token: int(new_V[i]) for token, i in tokenizer["model"]["vocab"].items()}
    tokenizer["added_tokens"] = [{**token, "id": int(new_V[token["id"]])} for token in tokenizer["added_tokens"]]
    (moved / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    bos = int(new_V[config["bos_token_id"]])
    (moved / "config.json").write_text(json.dumps({**config, "bos_token_id": bos, "eos_token_id": bos}))

    one, other = (communities(full_vocab(at, tmp_path / "runs"), restarts=2).run for at in (folder, moved))
    was, now = (rows(run, "communities") for run in (one, other))
    assert adjusted_rand_score(was["community"].to_numpy(), now["community"].to_numpy()[new_V]) == 1
    np.testing.assert_array_equal(was["degree"].to_numpy(), now["degree"].to_numpy()[new_V])


def test_isolated_tokens_are_kept_and_counted(source: Run) -> None:
    run = communities(source, neighbours=1, symmetrise="mutual", restarts=2).run
    tokens = rows(run, "communities")
    degree_V, community_V = tokens["degree"].to_numpy(), tokens["community"].to_numpy()
    isolated_V = degree_V == 0
    assert isolated_V.any()
    assert len(tokens) == 1024
    sizes = np.bincount(community_V)
    assert (sizes[community_V[isolated_V]] == 1).all()
    assert (tokens["stability"].to_numpy()[isolated_V] == 1).all()
    assert {done.measures.isolated_tokens for done in run.manifest().shards} == {int(isolated_V.sum())}


def test_shards_of_one_thread_run_on_every_core() -> None:
    capacity = Capacity((Node(8, 0),) * 2)
    assert Grant.divide(capacity, 0, most_cpus=1) == Grant(cpus=1, gpus=0, workers=16)
    assert Grant.divide(capacity, 0) == Grant(cpus=4, gpus=0, workers=4)


def test_one_restart_has_no_stability(source: Run) -> None:
    run = communities(source, restarts=1).run
    assert rows(run, "communities")["stability"].null_count == 1024
    assert rows(run, "restarts").to_pylist()[0]["ari_mean"] is None


def test_a_subset_holds_its_tokens_only(source: Run) -> None:
    chosen = np.arange(0, 1024, 3, dtype=np.int32)
    run = communities(source, chosen, neighbours=6, restarts=1).run
    tokens = rows(run, "communities")
    assert tokens["token_id"].to_pylist() == chosen.tolist()
    edges = rows(run, "edges")
    assert set(edges["source_id"].to_pylist() + edges["target_id"].to_pylist()) <= set(chosen.tolist())
    top = {row["token_id"]: row["key_ids"] for row in ds.dataset(source.folder / "topk").to_table().to_pylist()}
    inside = set(chosen.tolist())
    short = sum(len([k for k in top[t] if k in inside and k != t]) < 6 for t in chosen.tolist())
    assert short > 0
    assert run.manifest().shards[0].measures.tokens_short_of_neighbours == short
    assert run.manifest().request.spec["tokens"]["count"] == len(chosen)


class DriverDiedError(Exception):
    """The driver died."""


class Dying(InProcessExecutor):
    """Dies after some items."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._after = after

    def map(self, function: Callable[..., Any], tasks: Any) -> Any:
        for done, outcome in enumerate(super().map(function, tasks)):
            if done == self._after:
                raise DriverDiedError
            yield outcome


def test_a_stopped_job_resumes_with_the_same_files(source: Run, finished: Run, tmp_path: Path) -> None:
    copy = tmp_path / source.folder.name
    shutil.copytree(source.folder, copy)
    with pytest.raises(DriverDiedError):
        communities(Run(copy), restarts=3, executor=Dying(after=2))
    result = communities(Run(copy), restarts=3)
    assert result.computed == 1
    assert result.run.folder.name == finished.folder.name
    assert hashes(result.run) == hashes(finished)
    (Path(result.run.folder) / "edges.parquet").write_bytes(b"")
    repaired = communities(Run(copy), restarts=3)
    assert repaired.computed == 0
    assert hashes(repaired.run) == hashes(finished)
    assert communities(Run(copy), restarts=3).seconds.get("reducing") is None


@pytest.mark.slow
def test_restarts_of_different_graphs_are_never_mixed(source: Run, finished: Run, tmp_path: Path) -> None:
    copy = tmp_path / source.folder.name
    shutil.copytree(source.folder, copy)
    graph = CommunitiesJob.graph

    def elsewhere(job: CommunitiesJob) -> Graph:
        made = graph(job)
        return dataclasses.replace(made, weight_E=np.nextafter(made.weight_E, np.float32(2)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CommunitiesJob, "graph", elsewhere)
        with pytest.raises(DriverDiedError):
            communities(Run(copy), restarts=3, executor=Dying(after=2))
    result = communities(Run(copy), restarts=3)
    assert result.computed == 3
    assert hashes(result.run) == hashes(finished)


@pytest.mark.slow
def test_the_run_id_follows_what_changes_results(source: Run, finished: Run) -> None:
    ids = {
        finished.folder.name,
        *(
            communities(source, chosen, **{"restarts": 1, **spec}).run.folder.name
            for spec in ({}, {"seed": 1}, {"resolution": 2.0}, {"quality": "modularity"})
            for chosen in (None, np.arange(500, dtype=np.int32))
        ),
    }
    assert len(ids) == 9
    assert communities(source, restarts=3, resolution=1.5).run.folder == finished.folder


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ({"neighbours": 0}, "--neighbours 0"),
        ({"restarts": 0}, "--restarts 0"),
        ({"symmetrise": "both"}, "--symmetrise 'both'"),
        ({"quality": "louvain"}, "--quality 'louvain'"),
        ({"quality": "modularity", "resolution": 2.0}, "--resolution 2.0"),
        ({"quality": "cpm"}, "--quality cpm needs --resolution"),
        ({"resolution": 0.0}, "--resolution 0.0"),
        ({"resolution": float("nan")}, "--resolution nan"),
        ({"seed": -1}, "--seed -1"),
        ({"neighbours": 20}, "choose at most 19, or submit full-vocab with --top-k 21"),
        ({"neighbours": 5000}, "choose at most 19, or submit full-vocab with --top-k 1024"),
    ],
)
def test_impossible_requests_are_refused_in_one_line(source: Run, spec: dict[str, Any], complaint: str) -> None:
    before = sorted(Path(source.folder).parent.iterdir())
    with pytest.raises(ValueError, match=r"choose|needs") as refusal:
        communities(source, **spec)
    assert complaint in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert sorted(Path(source.folder).parent.iterdir()) == before


def test_a_graph_without_edges_is_refused_before_anything_is_written(source: Run) -> None:
    before = sorted(Path(source.folder).parent.iterdir())
    with pytest.raises(ValueError, match="no edge"):
        communities(source, np.array([3], np.int32), restarts=1)
    assert sorted(Path(source.folder).parent.iterdir()) == before


def test_sources_that_are_no_sound_full_vocab_run_are_refused(source: Run, finished: Run, tmp_path: Path) -> None:
    copy = Run(tmp_path / source.folder.name)
    shutil.copytree(source.folder, copy.folder)
    manifest_file = Path(copy.folder) / "manifest.json"
    manifest = manifest_file.read_bytes()
    manifest_file.unlink()
    with pytest.raises(ValueError, match="not finished"):
        SourceRun.open(tmp_path, copy.folder.name)
    manifest_file.write_bytes(b"{")
    with pytest.raises(ValueError, match="damaged"):
        SourceRun.open(tmp_path, copy.folder.name)
    manifest_file.write_bytes(manifest)
    part = next((Path(copy.folder) / "topk").rglob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(ValueError, match="damaged"):
        SourceRun.open(tmp_path, copy.folder.name)
    with pytest.raises(ValueError, match="is of communities"):
        SourceRun.open(source.folder.parent, finished.folder.name)
    with pytest.raises(ValueError, match="is not in"):
        SourceRun.open(tmp_path, "nothing")


def test_the_command_prints_communities_and_exports_the_graph(
    source: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frequencies, exported = tmp_path / "f.csv", tmp_path / "graph.graphml"
    frequencies.write_text("token,id,count\n" + "".join(f"x,{token},{token}\n" for token in range(1024)))
    lonely, foreign = tmp_path / "lonely.csv", tmp_path / "foreign.csv"
    lonely.write_text("token,id,count\nx,3,1\n")
    foreign.write_text("token,id,count\nx,1024,1\n")
    common = ["communities", source.folder.name, "--out", str(source.folder.parent), "--in-process"]
    arguments = ["--restarts", "2", "--frequencies", str(frequencies), "--most-frequent", "800"]
    assert submit_command([*common, *arguments, "--export", str(exported)]) == 0
    printed = capsys.readouterr()
    assert "800 tokens" in " ".join(printed.out.split())
    assert "2 restarts agree by an adjusted Rand index of" in " ".join(printed.out.split())
    assert "scores/s" not in printed.err
    assert "800 of 800 texts in --frequencies differ" in " ".join(printed.err.split())
    import igraph

    graph = igraph.Graph.Read_GraphML(str(exported))
    run = next(run for run in store.all_runs(source.folder.parent) if f"{run.folder}" in printed.out)
    assert graph.vs["token_id"] == list(range(224, 1024))
    tokens, edges = rows(run, "communities"), rows(run, "edges")
    assert graph.vs["community"] == tokens["community"].to_pylist()
    assert [graph.vs[edge.source]["token_id"] for edge in graph.es] == edges["source_id"].to_pylist()
    assert [graph.vs[edge.target]["token_id"] for edge in graph.es] == edges["target_id"].to_pylist()
    assert graph.es["weight"] == edges["weight"].to_pylist()

    for bad, complaint in (
        (["--export", str(tmp_path / "no" / "graph.graphml")], "--export"),
        (["--most-frequent", "5"], "--frequencies"),
        (["--most-frequent", "0", "--frequencies", str(frequencies)], "--most-frequent 0"),
        (["--frequencies", str(lonely), "--quiet"], "no edge"),
        (["--frequencies", str(foreign)], "ids end at 1023"),
        (["--frequencies", str(tmp_path / "none.csv")], "--frequencies"),
        (["--neighbours", "20"], "at most 19"),
    ):
        assert submit_command([*common, *bad]) == 2
        error = capsys.readouterr().err
        assert complaint in error
        assert error.count("\n") == 1
