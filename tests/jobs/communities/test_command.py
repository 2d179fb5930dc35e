"""What `submit communities` refuses to read and to overwrite."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from qkatlas.cluster.executor import Capacity, Grant, Node
from qkatlas.cluster.in_process import InProcessExecutor
from qkatlas.jobs.communities.job import CommunitiesJob
from qkatlas.jobs.communities.spec import Communities
from qkatlas.jobs.full_vocab.job import FullVocabJob
from qkatlas.jobs.full_vocab.spec import FullVocab
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.source import SourceRun
from qkatlas.jobs.loop.service import submit
from qkatlas.jobs.main import run as submit_command
from qkatlas.outputs.runs.run import Run


def full_vocab(folder: Path, out: Path, top_k: int) -> Run:
    job = FullVocabJob(FullVocab(top_k=top_k), Model.open("test", folder))
    return submit(job, out=out, executor=InProcessExecutor(), gpus=0).run


@pytest.fixture(scope="module")
def source(planted_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return full_vocab(planted_tiny, tmp_path_factory.mktemp("runs"), 10)


def test_export_replaces_a_graph_and_nothing_else(
    source: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(source.folder)
    out = folder.parent
    common = ["communities", source.folder.name, "--out", str(out), "--in-process", "--restarts", "1", "--quiet"]
    notes, graph = tmp_path / "notes.txt", tmp_path / "graph.graphml"
    notes.write_text("mine")
    for target, complaint in (
        (notes, "is no GraphML file and is left alone; choose another file"),
        (tmp_path, "is no GraphML file and is left alone"),
        (Path("/dev/stdout"), "is no GraphML file and is left alone"),
        (folder / "graph.graphml", "which holds a run; choose a file outside it"),
        (folder / "topk" / "graph.graphml", "which holds a run"),
        (folder / "self" / ".." / "tokens.parquet", "is no GraphML file"),
    ):
        assert submit_command([*common, "--export", str(target)]) == 2
        error = capsys.readouterr().err
        assert complaint in error
        assert error.count("\n") == 1
    assert notes.read_text() == "mine"
    assert list(out.glob("communities-*")) == []  # refused before anything was computed

    assert submit_command([*common, "--export", str(graph)]) == 0
    first = graph.read_bytes()
    assert b"<graphml" in first[:200]
    assert submit_command([*common, "--export", str(graph)]) == 0
    assert graph.read_bytes() == first
    assert sorted(file.name for file in tmp_path.iterdir()) == ["graph.graphml", "notes.txt"]


def test_a_graph_that_cannot_be_written_leaves_the_earlier_one(
    source: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import igraph

    def failing(self: igraph.Graph, file: str) -> None:
        Path(file).write_text("<graphml half")
        raise OSError(28, "No space left on device")

    graph = tmp_path / "graph.graphml"
    graph.write_text("<?xml?><graphml>earlier</graphml>")
    monkeypatch.setattr(igraph.Graph, "write_graphml", failing)
    common = ["communities", source.folder.name, "--out", str(source.folder.parent), "--in-process", "--quiet"]
    assert submit_command([*common, "--restarts", "1", "--export", str(graph)]) == 2
    assert graph.read_text() == "<?xml?><graphml>earlier</graphml>"
    assert [file.name for file in tmp_path.iterdir()] == ["graph.graphml"]


def test_frequencies_of_the_own_tokenizer_need_no_warning(
    source: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = SourceRun.open(source.folder.parent, source.folder.name)
    texts = opened.texts()
    assert texts is not None
    common = ["communities", source.folder.name, "--out", str(source.folder.parent), "--in-process", "--restarts", "1"]
    for wrong, warned in ((400, False), (600, True)):
        listed = [f"other{number}" if number < wrong else texts[number] for number in range(1024)]
        file = tmp_path / f"{wrong}.csv"
        quoted = [text.replace('"', '""') for text in listed]
        file.write_text("token,id,count\n" + "".join(f'"{text}",{place},1\n' for place, text in enumerate(quoted)))
        assert submit_command([*common, "--frequencies", str(file), "--most-frequent", "1024"]) == 0
        assert ("texts in --frequencies differ" in " ".join(capsys.readouterr().err.split())) == warned


def test_a_run_that_keeps_one_key_names_a_remedy_that_helps(planted_tiny: Path, tmp_path: Path) -> None:
    run = full_vocab(planted_tiny, tmp_path, 1)
    opened = SourceRun.open(tmp_path, run.folder.name)
    with pytest.raises(ValueError, match=r"keep 1 each, .*; submit full-vocab with --top-k 9$") as refusal:
        CommunitiesJob(Communities(run=opened.run_id), opened)
    assert "at most 0" not in str(refusal.value)


def test_a_vocabulary_of_one_token_has_no_neighbours(source: Run) -> None:
    opened = SourceRun.open(source.folder.parent, source.folder.name)
    opened.__dict__["tokens"] = opened.tokens.slice(0, 1)  # as the cached table of a run with one token
    with pytest.raises(ValueError, match=r"a vocabulary of 1 token, which has no neighbours; name"):
        CommunitiesJob(Communities(run=opened.run_id, neighbours=1), opened)


def test_tokens_without_bytes_have_no_texts_to_compare(source: Run) -> None:
    opened = SourceRun.open(source.folder.parent, source.folder.name)
    place = opened.tokens.schema.get_field_index("bytes")
    nothing = pa.nulls(1024, pa.binary())
    opened.__dict__["tokens"] = opened.tokens.set_column(place, "bytes", nothing)
    assert opened.texts() is None
    assert np.array(opened.key_ids()).shape == (1024, 10)


def test_every_option_is_there_and_no_gpu_can_be_asked_for(source: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit_command(["communities", "--help"]) == 0
    said = capsys.readouterr().out
    options = "neighbours symmetrise quality resolution restarts frequencies most-frequent export gpus out address "
    for option in (options + "detach wait in-process seed quiet").split():
        assert f"--{option} " in said, option
    assert "--model" not in said
    common = ["communities", source.folder.name, "--out", str(source.folder.parent), "--in-process", "--restarts", "1"]
    assert submit_command([*common, "--gpus", "2"]) == 2
    refusal = capsys.readouterr().err
    assert "--gpus 2 is more than communities can use, which runs on CPUs; leave it out" in refusal
    assert refusal.count("\n") == 1
    # Where there are GPUs, they are left to others.
    seen = []

    class Greedy(InProcessExecutor):
        def capacity(self) -> Capacity:
            return Capacity((Node(4, 8),))

        def start(self, grant: Grant) -> None:
            seen.append(grant)
            super().start(Grant(cpus=1, gpus=0, workers=1))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qkatlas.cluster.in_process.InProcessExecutor", Greedy)
        assert submit_command([*common, "--seed", "9", "--quiet"]) == 0
    assert [grant.gpus for grant in seen] == [0]
