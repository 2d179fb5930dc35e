"""submit reproduce from end to end: on a planted model whose truth says what must come out, and on its ruins."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import reference
from rich.console import Console
from safetensors.numpy import load_file, save_file
from support.interruptions import Stopping, hashes
from support.refusals import refused

from qkatlas.jobs.cli.ending import INCOMPLETE
from qkatlas.jobs.loop import session
from qkatlas.jobs.main import run as submit
from qkatlas.jobs.report.content import Report
from qkatlas.jobs.reproduce import answer as reproduction_answer
from qkatlas.jobs.reproduce import job as reproduce
from qkatlas.jobs.reproduce import published
from qkatlas.jobs.reproduce import sources as reproduction_sources
from qkatlas.jobs.reproduce import work as reproduction_shards
from qkatlas.jobs.reproduce.published import DEFINED, PUBLISHED, Facts
from qkatlas.jobs.reproduce.verdicts import DIFFERS, NOT_COMPARABLE, REPRODUCED
from qkatlas.outputs.report.pack import unpack
from qkatlas.outputs.runs import soundness
from qkatlas.outputs.runs.run import Run
from qkatlas.outputs.schemas import reproduce as schemas_reproduction
from qkatlas.pipeline.circuit.states import TokenStates
from qkatlas.pipeline.models.checkpoint import Checkpoint

Table = pd.DataFrame
Scores = Callable[..., np.ndarray]

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True, scope="module")
def _few_prompts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproduction_sources, "_ABLATED_PROMPTS", 8)
        patch.setattr(reproduction_shards, "RESTARTS", 3)
        patch.setattr(reproduce, "LONGEST", 48)
        yield


def compare(model: Path, out: Path, *arguments: object) -> Table:
    code = submit(["reproduce", "--model", str(model), "--in-process", "--out", str(out), *map(str, arguments)])
    assert code == 0
    return read(out)


def read(out: Path) -> Table:
    (folder,) = out.glob("reproduce-*")
    assert soundness.faults(Run(folder)) == []
    table = pq.read_table(folder / "reproduction.parquet")
    assert table.schema.equals(schemas_reproduction.REPRODUCTION, check_metadata=True)
    return table.to_pandas().set_index(["figure", "variant"])


@pytest.fixture(scope="module")
def shuffled(planted_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planted model with the entries of every tensor in random order."""
    folder = tmp_path_factory.mktemp("shuffled") / "model"
    shutil.copytree(planted_tiny, folder)
    rng = np.random.default_rng(0)
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name: rng.permutation(tensor.ravel()).reshape(tensor.shape) for name, tensor in sorted(tensors.items())},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    return folder


@pytest.fixture(scope="module")
def frequencies(planted_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every token of the planted vocabulary but BOS, words of categories first."""
    truth = json.loads((planted_tiny / "truth.json").read_text())
    words = [token for category in truth["categories"] for word in category["words"] for token in word["token_ids"]]
    order = [*words, *sorted(set(range(1023)) - set(words))]
    file = tmp_path_factory.mktemp("frequencies") / "counts.csv"
    rows = [f"x,{token},{2000 - place}" for place, token in enumerate(order)]
    file.write_text("\n".join(["token,id,count", *rows]))
    return file


PROMPT = [" red", " blue", " dog", " red", " cat", "Blue", " horse", " Monday", " Friday"]
CATEGORIES = [1, 1, 5, 1, 5, 1, 5, 0, 0]


@pytest.fixture(scope="module")
def planted_facts(planted_tiny: Path, reference_scores: Scores) -> Facts:
    """Facts as someone would publish them who had studied the planted model: by its truth, NumPy and Hugging Face."""
    truth = json.loads((planted_tiny / "truth.json").read_text())
    surface = {
        text: token
        for category in truth["categories"]
        for word in category["words"]
        for text, token in zip(word["surface"], word["token_ids"], strict=True)
    }
    eigenvalues = np.array(truth["eigenvalues"])
    known = published.facts()
    scores_VV = reference_scores(planted_tiny, 1, 5)
    crossing, peak, bits = reference_curve(planted_tiny, scores_VV)
    semantic = reference_semantic(planted_tiny, known, surface)
    values = {
        "spectrum.max_sym": np.abs(eigenvalues).max(),
        "spectrum.max_skew": 0.0,
        "spectrum.negative": (eigenvalues < 0).sum(),
        "spectrum.negative_share": (eigenvalues < 0).mean(),
        "spectrum.null": 8.0,
        "similarity.crossing": crossing,
        "similarity.peak": peak,
        "similarity.peak_of_text": peak,
        "similarity.height": bits,
        "clusters.count": len(truth["categories"]),
        "self_rank.mean": (scores_VV > np.diag(scores_VV)[:, None]).sum(axis=1).mean() + 1,
        "notebook.score": reference_attention(planted_tiny, [1023, *(surface[text] for text in PROMPT)]),
    }
    limits = {
        "spectrum.null": 1.0, "self_rank.mean": 1.01, "notebook.score": 1e-5, "similarity.crossing": 1e-3,
        "similarity.height": 1e-3, "heads.duplicate_token": 2, "heads.induction": 1,
    }  # fmt: skip
    figures = [
        dataclasses.replace(
            one, published=float(values.get(one.figure, one.published or 0)), limit=limits.get(one.figure, one.limit)
        )
        for one in known.figures
    ]
    greys = ("black", "pink", "silver", "grey")
    colours = [text.replace(" ", "_") for text in surface if text.strip().lower() in greys]
    heads = known.data["known_heads"]
    highest_layer, highest = np.unravel_index(int(semantic.argmax()), semantic.shape)
    data = {
        **known.data,
        "shape": {"n_layers": 3, "n_heads": 8, "d_model": 128, "d_head": 16, "vocab_size": 1024},
        "semantic_category_scores": semantic.tolist(),
        "highest": f"L{highest_layer}H{highest}",
        "top10": {**known.data["top10"], "red": colours},
        "known_heads": {
            "induction": {**heads["induction"], "heads": ["L2H4"], "among": 1},
            "long_prefix": {**heads["long_prefix"], "heads": ["L5H1"]},
            "previous_token": {**heads["previous_token"], "heads": ["L1H3"]},
            "duplicate_token": {**heads["duplicate_token"], "heads": ["L0H1", "L2H0"], "among": 2},
        },
        "notebook": {
            **known.data["notebook"],
            "prompt_ids": [1023, *(surface[text] for text in PROMPT)],
            "prompt": ["<|endoftext|>", *PROMPT],
            "prompt_categories": [0, *CATEGORIES],
        },
    }
    return dataclasses.replace(known, figures=tuple(figures), data=data)


def reference_curve(folder: Path, scores_VV: np.ndarray) -> tuple[float, float, float]:
    """Crossing, peak and height in bits of the similarity curve of all tokens but BOS, by NumPy in float64."""
    unit_VD = reference.unit(TokenStates(Checkpoint.open(folder), "mlp", threads=1).advance_to(1)[:-1])
    pairs = ~np.eye(len(unit_VD), dtype=bool)
    cosine_P = (unit_VD @ unit_VD.T)[pairs]
    difference_P = (scores_VV - np.diag(scores_VV)[:, None])[:-1, :-1][pairs]
    number_P = np.floor((cosine_P + 1) / 0.03).astype(int)
    count, total = np.bincount(number_P), np.bincount(number_P, difference_P)
    bins = np.flatnonzero(count >= 100)
    centre, mean = -1 + 0.03 * (bins + 0.5), total[bins] / count[bins]
    top = int(mean.argmax())
    left = max(place for place in range(top) if mean[place] <= 0 < mean[place + 1])
    crossing = np.interp(0, mean[left : left + 2], centre[left : left + 2])
    return float(crossing), float(centre[top]), float(mean[top] / np.log(2))


def reference_semantic(folder: Path, known: Facts, surface: dict[str, int]) -> np.ndarray:
    """Semantic Category Scores of all heads on prompts of our own, by Hugging Face's attention and plain loops."""
    categories = [
        [surface[f" {word}"] for word in words if f" {word}" in surface]
        for words in known.data["keyword_categories"].values()
    ]
    categories = [tokens for tokens in categories if len(tokens) > 1]
    rng = np.random.default_rng(7)
    found = []
    for _ in range(8):
        place_T = rng.integers(len(categories), size=48)
        ids_T = [int(rng.choice(categories[place])) for place in place_T]
        scores = np.zeros((3, 8))
        pattern_LNTT = attention(folder, [1023, *ids_T])
        for query in range(48):
            keys = [k for k in range(query) if place_T[k] == place_T[query] and ids_T[k] != ids_T[query]]
            columns = [key + 1 for key in keys] or [0]
            scores -= np.log(pattern_LNTT[:, :, query + 1, columns].sum(axis=-1))
        found.append(scores / 48)
    return np.mean(found, axis=0)


@cache
def _reference_model(folder: Path) -> Any:
    from transformers import GPT2LMHeadModel

    return GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").double()


def attention(folder: Path, ids: list[int]) -> np.ndarray:
    """Hugging Face's attention patterns, [L, N, T, T]."""
    import torch

    with torch.no_grad():
        layers = _reference_model(folder)(torch.tensor([ids]), output_attentions=True).attentions
    return np.concatenate([layer.numpy() for layer in layers])


def reference_attention(folder: Path, ids: list[int]) -> float:
    """The notebook's score of L1H5, marked pairs found one by one."""
    pattern_TT = attention(folder, ids)[1, 5]
    marked = [
        pattern_TT[query + 1, key + 1]
        for query in range(len(PROMPT))
        for key in range(query)
        if CATEGORIES[key] == CATEGORIES[query] and PROMPT[key] != PROMPT[query]
    ]
    return float(np.mean(marked))


@pytest.fixture
def as_published(planted_facts: Facts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "facts", lambda: planted_facts)


@pytest.fixture(scope="module")
def sound(
    planted_tiny: Path, planted_facts: Facts, frequencies: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Folder of the runs of the planted model."""
    out = tmp_path_factory.mktemp("sound")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(published, "facts", lambda: planted_facts)
        compare(planted_tiny, out, "--frequencies", frequencies)
    return out


SHOWN = [
    ("semantic.correlation", DEFINED),
    ("semantic.lowest", DEFINED),
    ("semantic.highest", DEFINED),
    ("ablation.claim", DEFINED),
    ("spectrum.max_sym", DEFINED),
    ("spectrum.max_sym", PUBLISHED),
    ("spectrum.max_skew", DEFINED),
    ("spectrum.max_skew", PUBLISHED),
    ("spectrum.negative", PUBLISHED),
    ("spectrum.negative_share", DEFINED),
    ("top10.red", DEFINED),
    ("top10.red", PUBLISHED),
    *((f"similarity.{name}", form) for name in ("crossing", "peak", "height") for form in (DEFINED, PUBLISHED)),
    ("self_rank.mean", DEFINED),
    ("self_rank.mean", PUBLISHED),
    ("steering.kin", DEFINED),
    ("steering.kin", PUBLISHED),
    ("heads.induction", DEFINED),
    ("heads.previous_token", DEFINED),
    ("heads.duplicate_token", DEFINED),
    ("notebook.score", PUBLISHED),
    ("notebook.place", DEFINED),
]
"""What the planted model's truth says, and a model of shuffled weights must not show."""

SHOWN_BY_ANY = [
    ("steering.monotone", DEFINED),
    ("steering.monotone", PUBLISHED),
    ("clusters.count", DEFINED),
    ("clusters.count", PUBLISHED),
    ("spectrum.null", DEFINED),
]
"""What both show: these figures prove nothing by themselves."""


@pytest.mark.parametrize("row", SHOWN + SHOWN_BY_ANY)
def test_a_planted_model_reproduces_its_truth(sound: Path, row: tuple[str, str]) -> None:
    found = read(sound).loc[row]
    assert found.verdict == REPRODUCED, found.to_dict()


@pytest.mark.usefixtures("as_published")
def test_its_ruins_do_not(shuffled: Path, frequencies: Path, tmp_path: Path) -> None:
    ruined = compare(shuffled, tmp_path, "--frequencies", frequencies)
    assert {row: ruined.verdict[row] for row in SHOWN} == dict.fromkeys(SHOWN, DIFFERS)
    assert {row: ruined.verdict[row] for row in SHOWN_BY_ANY} == dict.fromkeys(SHOWN_BY_ANY, REPRODUCED)


def test_whose_self_score_is_subtracted_moves_no_mean(sound: Path) -> None:
    table = read(sound)
    for name in ("crossing", "peak", "height"):
        assert table.measured[f"similarity.{name}", PUBLISHED] == pytest.approx(
            table.measured[f"similarity.{name}", DEFINED], rel=1e-5
        )


def test_each_run_has_the_seconds_of_its_own_stages(sound: Path) -> None:
    (steering, _), (ablation,) = (
        [json.loads((folder / "manifest.json").read_text())["provenance"]["seconds"] for folder in sound.glob(pattern)]
        for pattern in ("steering-*", "ablation-*")
    )
    assert "reading weights" in ablation
    assert "reading weights" not in steering


def test_a_head_without_negative_eigenvalues_cannot_be_steered(planted_tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(planted_tiny, folder)
    tensors = load_file(folder / "model.safetensors")
    for kind in ("weight", "bias"):
        (name,) = [name for name in tensors if name.endswith(f"h.1.attn.c_attn.{kind}")]
        changed = tensors[name].copy()
        changed[..., 128 + 80 : 128 + 96] = changed[..., 80:96]  # K = Q in L1H5: W_sym has no negative eigenvalue
        tensors[name] = changed
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    table = compare(folder, tmp_path / "runs")
    for variant in (DEFINED, PUBLISHED):
        assert table.measured["steering.monotone", variant] == 0
        assert table.verdict["steering.monotone", variant] == DIFFERS


def test_what_gpt2_has_and_the_model_has_not_is_not_compared(planted_tiny: Path, sound: Path, tmp_path: Path) -> None:
    for folder in sound.iterdir():  # finished runs, of which most are its own too
        if not folder.name.startswith("reproduce-"):
            shutil.copytree(folder, tmp_path / folder.name)
    table = compare(planted_tiny, tmp_path)
    rest = table[table.verdict == NOT_COMPARABLE]
    assert rest.measured.isna().all()
    assert (rest.note != "").all()
    groups = {figure.partition(".")[0] for figure, _ in rest.index}
    assert groups == {
        "semantic", "spectrum", "top10", "similarity", "clusters", "self_rank", "heads", "notebook", "positions",
        "features", "tasks", "prefix",
    }  # fmt: skip
    assert table.note["positions.width", DEFINED] == "the model has no head L0H8, L0H9, L0H10"
    assert "--frequencies" in table.note["clusters.count", DEFINED]
    assert table.verdict["semantic.lowest", DEFINED] == REPRODUCED
    assert table.verdict["ablation.claim", DEFINED] == REPRODUCED


def test_a_model_without_texts_shows_what_needs_none(random_model: Path, tmp_path: Path) -> None:
    table = compare(random_model, tmp_path)
    compared = {figure.partition(".")[0] for figure, _ in table[table.verdict != NOT_COMPARABLE].index}
    assert compared == {"steering", "positions"}
    assert table.note["semantic.lowest", DEFINED] == "no prompt of category words can be made"


@pytest.mark.usefixtures("as_published")
def test_it_resumes_and_goes_by_finished_runs(
    planted_tiny: Path, frequencies: Path, sound: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (whole,) = sound.glob("reproduce-*")
    for folder in sound.iterdir():
        if folder != whole:
            shutil.copytree(folder, tmp_path / folder.name)
    request = ["reproduce", "--model", str(planted_tiny), "--in-process", "--frequencies", str(frequencies)]
    with monkeypatch.context() as patch:
        # The runs it stands on are finished and need no shard: it stops within its own.
        patch.setattr(session.Session, "_make_executor", lambda session: Stopping(3))
        assert submit([*request, "--out", str(tmp_path)]) == 130
    assert submit([*request, "--out", str(tmp_path)]) == 0
    assert "3 of 12 shards are there already" in capsys.readouterr().err
    assert hashes(Run(tmp_path / whole.name)) == hashes(Run(whole))
    assert submit([*request, "--out", str(tmp_path)]) == 0
    assert "nothing had to be computed" in capsys.readouterr().out


def test_a_run_it_stands_on_that_fails_ends_it(
    random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from qkatlas.jobs.loop import work

    def full(folder: Path, path: str, table: pa.Table) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(work, "write_part", full)
    assert submit(["reproduce", "--model", str(random_model), "--in-process", "--out", str(tmp_path)]) == INCOMPLETE
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if line.startswith("run ")] == ["run 1: full-vocab as defined"]
    assert said[-1].startswith("submit: error: 1 shards failed, tracebacks in ")
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith("full-vocab-")


def test_without_the_weights_it_says_in_one_line_how_to_get_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused("reproduce", Path("gpt2"), tmp_path, capsys, [], ["'gpt2'", "hf download gpt2", "--model DIR", "directory"])
    submit(["reproduce", "--out", str(tmp_path / "runs")])
    assert capsys.readouterr().out == ""


def test_a_model_without_the_head_is_refused(
    make_random_model: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_random_model(n_layer=1)
    capsys.readouterr()
    refused("reproduce", folder, tmp_path, capsys, [], ["L1H5", "1 layers of 8"])


def test_a_model_without_bos_is_refused_before_anything_is_computed(
    make_random_model: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_random_model(bos_token_id=None, eos_token_id=None)
    capsys.readouterr()
    refused("reproduce", folder, tmp_path, capsys, [], ["BOS"])


def test_the_answer_fits_a_terminal_and_ends_with_the_verdicts(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = read(sound).reset_index()
    rows.loc[rows.figure == "similarity.crossing", ["measured", "measured_text"]] = [np.inf, "never"]
    rows.loc[rows.figure == "similarity.peak", "measured"] = -1.2345e-38
    rows.loc[rows.figure == "similarity.height", "measured"] = -0.00012345
    rows["tolerance"] = [one.tolerance for one in published.facts().figures for _ in one.variants]
    whole = pa.Table.from_pandas(rows, schema=schemas_reproduction.REPRODUCTION, preserve_index=False)
    monkeypatch.setattr(reproduction_answer, "read_whole", lambda run, name: whole)
    (folder,) = sound.glob("reproduce-*")
    console = Console(width=80, file=io.StringIO())
    console.print(reproduction_answer.verdicts(Run(folder)))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    verdicts = lines[-1 - len(rows) : -1]
    for row, line in zip(rows.itertuples(), verdicts, strict=True):
        assert line.startswith(row.figure)
        assert line.rstrip().endswith(row.verdict)
    assert sum(" never " in line for line in verdicts) == 2
    counts = rows.verdict.value_counts()
    assert lines[-1].startswith(f"{len(rows)} rows: {counts[REPRODUCED]} reproduced, {counts[DIFFERS]} differs")


def test_a_report_shows_every_row(sound: Path) -> None:
    (folder,) = sound.glob("reproduce-*")
    _, blocks = Report.of([Run(folder)]).content()
    (section,) = json.loads(unpack(blocks["index"]))["sections"]
    assert section["kind"] == "reproduction"
    columns = section["table"]["columns"]
    assert columns["verdict"]["values"] == read(sound).verdict.tolist()
    assert columns["measured_text"]["values"] == read(sound).measured_text.tolist()
