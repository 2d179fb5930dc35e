"""`submit find`: margins and percentiles against whole rows in float64, and the planted head among its decoys."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qkatlas.jobs.find.pairs import asked_pairs, look_alike_frequencies, random_tuples
from qkatlas.jobs.find.search import search
from qkatlas.jobs.find.spec import Find
from qkatlas.jobs.inputs.frequencies import Frequencies
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.resolve import write_planted
from qkatlas.jobs.main import run
from qkatlas.pipeline.planted.checkpoint import PlantedDesign

PAIRS = {"attends": (("cat", "cow"), ("red", "blue")), "avoids": (("cat", "cat"),)}


@pytest.mark.slow
def test_every_head_equals_whole_rows(worded_model: Path, reference_scores: Callable[..., np.ndarray]) -> None:
    model = Model.open("test", worded_model)
    pairs, found = search(Find(**PAIRS, tuples=99), model)
    assert [one.margin for one in found] == sorted((one.margin for one in found), reverse=True)
    assert len(found) == 24
    for one in found:
        scores_VV = reference_scores(worded_model, one.head.layer, one.head.index, "attention")
        z_VV = (scores_VV - scores_VV.mean(axis=1, keepdims=True)) / scores_VV.std(axis=1, keepdims=True)
        z = [z_VV[pair.query_id, pair.key_id] for pair in pairs]
        np.testing.assert_allclose(one.z, z, atol=1e-4)
        turned = [value if pair.wanted else -value for value, pair in zip(z, pairs, strict=True)]
        assert one.margin == pytest.approx(min(turned), abs=1e-4)
        assert one.worst is pairs[int(np.argmin(turned))]
        below = [(scores_VV[pair.query_id] < scores_VV[pair.query_id, pair.key_id]).mean() for pair in pairs]
        np.testing.assert_allclose(one.percentiles, below, atol=2 / len(scores_VV))
        assert one.keys == len(scores_VV)


@pytest.mark.slow
def test_a_sample_says_what_the_vocabulary_does_and_the_first_head_is_exact(worded_model: Path) -> None:
    model = Model.open("test", worded_model)
    whole = {one.head: one for one in search(Find(**PAIRS, tuples=99), model)[1]}
    sampled = search(Find(**PAIRS, tuples=99, sample=600, exact=2), model)[1]
    assert [one.keys for one in sampled] == [1024] * 2 + [600] * 22
    for one in sampled[:2]:
        assert one.margin == pytest.approx(whole[one.head].margin, abs=1e-5)
        assert one.percentiles == whole[one.head].percentiles
    assert max(abs(one.margin - whole[one.head].margin) for one in sampled) < 0.25


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_planted_head_comes_before_its_decoys(seed: int, tmp_path: Path) -> None:
    write_planted(PlantedDesign(size="small", seed=seed), tmp_path / "model")
    truth = json.loads((tmp_path / "model" / "truth.json").read_text())
    words = [[word["word"] for word in category["words"]] for category in truth["categories"]]
    attends = tuple((of[0], of[1]) for of in words[:4])
    spec = Find(attends=attends, avoids=tuple((of[0], of[0]) for of in words[:1]), tuples=499)
    found = search(spec, Model.open("test", tmp_path / "model"))[1]
    assert str(found[0].head) == truth["target"]
    assert found[0].margin > max(0.0, found[1].margin)
    assert found[0].p < 0.05


@pytest.mark.slow
def test_random_pairs_are_no_find(worded_model: Path) -> None:
    """Over random words p is uniform: no head of random weights stands out more often than chance allows."""
    model = Model.open("test", worded_model)
    rng = np.random.default_rng(0)
    p_any = [
        search(Find(attends=tuple((f"#{a}", f"#{b}") for a, b in rng.integers(0, 1000, (2, 2))), tuples=99), model)[1][
            0
        ].p_any
        for _ in range(12)
    ]
    assert min(p_any) > 0.01
    assert 0.2 < np.mean(p_any) < 0.8


def test_random_words_are_alike_and_stand_in_everywhere(planted_tiny: Path) -> None:
    vocabulary = Model.open("test", planted_tiny).vocabulary
    pairs = asked_pairs((("cat", "cow"),), (("cat", "cat"),), vocabulary)
    cat = pairs[0].query_id
    others = look_alike_frequencies(sorted({cat, pairs[0].key_id}), vocabulary, None)
    for ids in others.values():
        assert cat not in ids
        texts = [vocabulary.spellings[token] or b"" for token in ids.tolist()]
        assert all(text.startswith(b" ") and text[1:].isalpha() for text in texts)
    tuples_TP2 = random_tuples(pairs, others, draws=50, seed=1)
    assert (tuples_TP2[:, 0, 0] == tuples_TP2[:, 1, 0]).all()
    assert (tuples_TP2[:, 1, 0] == tuples_TP2[:, 1, 1]).all()
    np.testing.assert_array_equal(tuples_TP2, random_tuples(pairs, others, draws=50, seed=1))
    assert not np.array_equal(tuples_TP2, random_tuples(pairs, others, draws=50, seed=2))
    ids = vocabulary.ordinary()
    counted = Frequencies(Path("counts.csv"), tuple(ids[::-1]), tuple("" for _ in ids))
    assert not np.array_equal(look_alike_frequencies([cat], vocabulary, counted)[cat], others[cat])


@pytest.mark.slow
def test_the_command_prints_tables_json_and_csv(planted_tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["find", "--model", str(planted_tiny), "--attends", "cat:cow,·red: blue", "--not", "cat:cat"]
    assert run([*command, "--top", "3"]) == 0
    printed = capsys.readouterr().out
    assert "·cat -> ·cow, ·red -> ·blue" in printed
    assert printed.splitlines()[3].startswith("L1H5")
    assert run([*command, "--json"]) == 0
    heads = json.loads(capsys.readouterr().out)["heads"]
    assert run([*command, "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == len(heads) == 24
    assert [(int(row["layer"]), int(row["head"])) for row in rows] == [(one["layer"], one["head"]) for one in heads]
    assert heads[0]["z cat:cat"] == pytest.approx(float(rows[0]["z cat:cat"]))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["nothing to find", "--attends"]),
        (["--attends", "cat"], ["--attends 'cat' is malformed", "QUERY:KEY"]),
        (["--attends", "cat:"], ["malformed at 'cat:'"]),
        (["--not", "a:b:c"], ["--not 'a:b:c' is malformed"]),
        (["--attends", "cat:cow", "--tuples", "5"], ["--tuples 5", "99"]),
        (["--attends", "cat:cow", "--json", "--csv"], ["--json and --csv"]),
        (["--attends", "cat:cow", "--states", "moonlight"], ["--states 'moonlight'"]),
    ],
)
def test_malformed_requests_are_refused(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["find", *arguments]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error
    assert len(error.splitlines()) == 1


def test_a_word_that_is_no_token_is_refused_with_what_is_like_it(planted_tiny: Path) -> None:
    model = Model.open("test", planted_tiny)

    def refuse(**asked: Any) -> str:
        with pytest.raises(ValueError, match="token") as caught:
            search(Find(**asked), model)
        return str(caught.value)

    assert "'catt' is no single token" in refuse(attends=(("catt", "cow"),))
    assert "near it are" in refuse(attends=(("catt", "cow"),))
    assert "#1024 is outside the vocabulary" in refuse(avoids=(("cat", "#1024"),))
