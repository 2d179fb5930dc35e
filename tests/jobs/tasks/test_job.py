"""`submit tasks` on planted heads, whose tasks are known, and on weights that know nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from qkatlas.cluster.in_process import InProcessExecutor
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.resolve import write_checkpoint, write_planted
from qkatlas.jobs.loop.service import submit
from qkatlas.jobs.main import run as command
from qkatlas.jobs.tasks.job import TasksJob
from qkatlas.jobs.tasks.spec import Tasks
from qkatlas.outputs.runs.reader import read_whole
from qkatlas.outputs.runs.run import Run
from qkatlas.pipeline.planted.checkpoint import PlantedDesign, plant
from qkatlas.pipeline.planted.tasks import with_tasks

FEW = "integer-copying,induction,induction-1,induction-3,succession-days,prepositions"


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted") / "model"
    write_checkpoint(with_tasks(plant(PlantedDesign(size="tiny"))), folder)
    return folder


def run_of(folder: Path, out: Path, **asked: object) -> Run:
    spec = Tasks(**{"tasks": FEW, "prompts": 24, "prefixes": False, **asked})  # type: ignore[arg-type]
    return submit(TasksJob(spec, Model.open("test", folder)), out=out, executor=InProcessExecutor(), gpus=0).run


@pytest.fixture(scope="module")
def measured(planted: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_of(planted, tmp_path_factory.mktemp("runs"), prefixes=True)


def served(run: Run) -> dict[str, set[str]]:
    rows = read_whole(run, "task_heads").to_pylist()
    return {
        task: {f"L{row['layer']}H{row['head']}" for row in rows if row["task"] == task and row["serves"]}
        for task in {row["task"] for row in rows}
    }


@pytest.mark.slow
def test_exactly_the_planted_heads_serve_their_tasks(measured: Run, planted: Path) -> None:
    truth = json.loads((planted / "truth.json").read_text())
    assert served(measured) == {task: set(truth["tasks"][task]) for task in FEW.split(",")}
    tasks = {row["task"]: row for row in read_whole(measured, "tasks").to_pylist()}
    assert all(row["solved"] and row["gain_low"] > 0 for row in tasks.values())
    assert all(row["null_heads"] == 0 for row in tasks.values())
    counts = {f"L{row['layer']}H{row['head']}": row for row in read_whole(measured, "task_counts").to_pylist()}
    both = {head for head, row in counts.items() if row["polysemantic"]}
    assert both == set(truth["tasks"]["induction"])  # which copies integers too
    alone = counts[truth["tasks"]["prepositions"][0]]
    assert (alone["n_tasks"], alone["task_entropy"], alone["tasks"]) == (1, 0.0, ["prepositions"])
    pair = counts[truth["tasks"]["induction"][0]]
    shares = [row["specific"] / tasks[row["task"]]["gain"] for row in read_whole(measured, "task_heads").to_pylist()
              if row["serves"] and (row["layer"], row["head"]) == (pair["layer"], pair["head"])]  # fmt: skip
    weights = np.array(shares) / sum(shares)
    assert pair["task_entropy"] == pytest.approx(-(weights * np.log(weights)).sum())
    assert pair["n_tasks"] == len(shares) == 4


@pytest.mark.slow
def test_effects_are_differences_of_the_losses_on_disk(measured: Run) -> None:
    losses = read_whole(measured, "task_losses")
    rows = read_whole(measured, "task_heads").to_pylist()

    def of(task: str, layer: int | None, head: int | None, column: str) -> np.ndarray:
        kept = losses.filter(pc.equal(losses["task"], task))
        for name, value in (("layer", layer), ("head", head)):
            kept = kept.filter(pc.is_null(kept[name]) if value is None else pc.equal(kept[name], value))
        found: np.ndarray = kept.sort_by("prompt")[column].to_numpy()
        assert len(found) == 24
        return found

    for row in rows[::17]:
        place = row["layer"], row["head"]
        effect, control = (
            of(row["task"], *place, name) - of(row["task"], None, None, name) for name in ("loss", "control_loss")
        )
        assert row["effect"] == pytest.approx(effect.mean(), abs=1e-12)
        assert row["control_effect"] == pytest.approx(control.mean(), abs=1e-12)
        assert row["specific"] == pytest.approx((effect - control).mean(), abs=1e-12)
        if row["task"] in ("induction-1", "induction-3"):  # whose answers all differ
            # A bootstrap interval of a mean is near that of the normal law.
            reach = 1.96 * (effect - control).std() / np.sqrt(24)
            assert row["specific_high"] - row["specific_low"] == pytest.approx(2 * reach, rel=0.25, abs=1e-9)


@pytest.mark.slow
def test_attributions_and_prefixes_are_those_of_the_planted_heads(measured: Run, planted: Path) -> None:
    truth = json.loads((planted / "truth.json").read_text())
    _, induction = truth["tasks"]["induction"]
    layer, head = int(induction[1]), int(induction[3:])
    rows = read_whole(measured, "prefix").to_pylist()
    assert {row["length"] for row in rows} == {1, 3}
    for row in rows:
        if (row["layer"], row["head"]) == (layer, head):
            assert row["attention"] > 0.9
            assert row["attention_low"] <= row["attention"] <= row["attention_high"]
            assert row["dla_low"] > 3
    corrupted = read_whole(measured, "prefix_corrupted").to_pylist()
    (own,) = [row for row in corrupted if (row["source"], row["layer"], row["head"]) == ("synthetic", layer, head)]
    # A head that asks for one token only keeps its attention where all but one are replaced.
    assert (own["n"], own["before"] > 0.9, own["after"] > 0.9) == (24, True, True)
    components = read_whole(measured, "dla_components").to_pylist()
    for task in FEW.split(","):
        of_task = {row["component"]: 0.0 for row in components}
        for row in components:
            if row["task"] == task:
                of_task[row["component"]] += row["dla_centred"]
        total = of_task.pop("total")
        assert sum(of_task.values()) == pytest.approx(total, abs=1e-4)
    sources = read_whole(measured, "dla_sources").to_pylist()
    best = max((row for row in sources if row["task"] == "induction-3"), key=lambda row: row["dla_centred"])
    assert (best["layer"], best["head"]) == (layer, head)
    prompts = [row for row in read_whole(measured, "task_prompts").to_pylist() if row["task"] == "induction-3"]
    token = prompts[0]["token_ids"]
    assert best["offset"] == len(token) - 1 - token.index(prompts[0]["answer_ids"][0])


@pytest.mark.slow
def test_a_preselection_measures_some_and_bounds_what_it_missed(planted: Path, tmp_path: Path) -> None:
    run = run_of(planted, tmp_path, tasks="induction,prepositions", exact=3, audit=5)
    for row in read_whole(run, "tasks").to_pylist():
        assert (row["n_exact"], row["n_audited"], row["n_heads"]) == (8, 5, {"induction": 2}.get(row["task"], 1))
        assert (row["audit_heads"], 0 < row["missed_most"] <= 16) == (0, True)
    rows = read_whole(run, "task_heads").to_pylist()
    assert [row["effect"] is None for row in rows] == [not row["exact"] for row in rows]
    assert sum(row["audited"] for row in rows) == 10
    everywhere = {(row["task"], row["layer"], row["head"]): row for row in rows}
    whole = read_whole(run_of(planted, tmp_path, tasks="induction,prepositions", exact=0), "task_heads").to_pylist()
    for row in whole:
        few = everywhere[row["task"], row["layer"], row["head"]]
        assert row["exact"]
        assert few["effect_linear"] == row["effect_linear"]
        if few["exact"]:
            assert few["effect"] == pytest.approx(row["effect"], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mean", "zero"])
def test_estimates_are_near_effects_where_these_are_small(kind: str, tmp_path: Path) -> None:
    write_planted(PlantedDesign(size="tiny"), tmp_path / "model")  # whose heads write next to nothing
    run = run_of(tmp_path / "model", tmp_path / "runs", tasks="induction-1", kind=kind, exact=0)
    rows = read_whole(run, "task_heads").to_pylist()
    for measured, estimated in (("effect", "effect_linear"), ("control_effect", "control_effect_linear")):
        effect, linear = (np.array([row[name] for row in rows]) for name in (measured, estimated))
        assert np.corrcoef(effect, linear)[0, 1] > 0.95
        seen = np.abs(effect) > 1e-3
        assert seen.sum() > 5
        assert np.median(linear[seen] / effect[seen]) == pytest.approx(1, abs=0.3)


@pytest.mark.slow
def test_what_has_learned_nothing_serves_nothing(planted: Path, tmp_path: Path) -> None:
    run = run_of(planted, tmp_path, tasks="induction,induction-2,succession-days", random_weights=True)
    assert sum(map(len, served(run).values())) == 0
    assert run_of(planted, tmp_path, tasks="induction,induction-2,succession-days").folder != run.folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zero", "resample"])
def test_other_replacements_find_the_same_heads(kind: str, planted: Path, tmp_path: Path) -> None:
    truth = json.loads((planted / "truth.json").read_text())
    found = served(run_of(planted, tmp_path, tasks="induction-2,succession-days,prepositions", kind=kind))
    assert found == {task: set(truth["tasks"][task]) for task in found}


@pytest.mark.slow
def test_tasks_of_a_user_stand_beside_the_others(planted: Path, tmp_path: Path) -> None:
    days = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
    lines = [
        {"task": "mine", "prompt": f" dog {days[n]} {days[(n + 1) % 7]}", "answer": f" {days[(n + 2) % 7]}",
         "control": f" dog {days[(n + 1) % 7]} {days[n]}"}
        for n in range(7)
    ]  # fmt: skip
    lines += [{**lines[n], "prompt": f" cat{lines[n]['prompt']}", "control": f" cat{lines[n]['control']}"}
              for n in range(7)]  # fmt: skip
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    asked = ["--tasks", "none", "--file", str(file), "--no-prefixes", "--in-process", "--quiet"]
    assert command(["tasks", "--model", str(planted), "--out", str(tmp_path / "runs"), *asked]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    truth = json.loads((planted / "truth.json").read_text())
    assert served(Run(folder)) == {"mine": set(truth["tasks"]["succession-days"])}
    with pytest.raises(ValueError, match="--kind resample needs two prompts of one length or more, and those of mine"):
        TasksJob(
            Tasks(tasks="none", file=file.read_text(), kind="resample", prefixes=False), Model.open("test", planted)
        )


@pytest.mark.slow
def test_a_run_that_stopped_goes_on_where_it_was(measured: Run, planted: Path, tmp_path: Path) -> None:
    run = run_of(planted, tmp_path, prefixes=True)
    lost = [part for name, receipt in run.receipts().items() if name.startswith("T02") for part in receipt.parts]
    assert lost
    for part in lost:
        (Path(run.folder) / part.path).unlink()
    (Path(run.folder) / "manifest.json").unlink()
    again = run_of(planted, tmp_path, prefixes=True)
    for name in ("tasks", "task_heads", "task_counts", "prefix", "prefix_text", "prefix_corrupted", "dla_sources"):
        assert read_whole(again, name).equals(read_whole(measured, name)), name
    assert all((Path(again.folder) / part.path).is_file() for part in lost)


@pytest.mark.cluster
def test_ray_and_one_process_leave_the_same_tables(planted: Path, tmp_path: Path) -> None:
    asked = ["tasks", "--model", str(planted), "--tasks", "induction-2", "--prompts", "8", "--no-prefixes", "--quiet"]
    found = []
    for name, where in (("ray", "--ray"), ("here", "--in-process")):
        assert command([*asked, where, "--out", str(tmp_path / name)]) == 0
        (folder,) = (tmp_path / name).iterdir()
        found.append({one: read_whole(Run(folder), one) for one in ("tasks", "task_heads", "dla_sources")})
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"tasks": "none"}, "--tasks none leaves no task; give --file, or name some"),
        ({"tasks": "nothing"}, "--tasks 'nothing' is unknown"),
        ({"prefixes": False, "text": "x"}, "--text and --no-prefixes exclude each other"),
        ({"kind": "resample", "prompts": 1}, "--kind resample needs two prompts"),
        ({"heads": ()}, "--heads names no head"),
    ],
)
def test_what_makes_no_sense_is_refused(asked: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Tasks(**asked)  # type: ignore[arg-type]


def test_a_model_without_words_has_tasks_of_random_tokens_alone(make_random_model: Callable[..., Path]) -> None:
    folder = make_random_model()
    job = TasksJob(Tasks(prefixes=False), Model.open("test", folder))
    assert {prompts.task for prompts in job.corpus.tasks} == {"induction", *(f"induction-{n}" for n in range(1, 10))}
    assert "task url is left out: the model has no tokenizer that reads text" in list(job.notes())
    with pytest.raises(ValueError, match="no task can be written for test"):
        TasksJob(Tasks(tasks="url", prefixes=False), Model.open("test", folder))
