"""`submit relations`: shares against whole rows in float64, a planted mapping, the published form, and refusals."""

from __future__ import annotations

import csv
import io
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import reference
from support.writers import COPYING, SUPPRESSING, write_planted_writers

from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.main import run
from qkatlas.jobs.relations.measure import measure
from qkatlas.jobs.relations.spec import Relations
from qkatlas.pipeline.text.relations import TokenRelation, read_relations, token_relations

RELATION = TokenRelation("pairs", (3, 10, 50, 99, 140, 7), (4, 20, 11, 98, 210, 0))


@pytest.mark.parametrize("published", [False, True])
def test_shares_equal_whole_rows(random_model: Path, published: bool) -> None:
    model = Model.open("test", random_model)
    scores = measure(Relations(k=40, as_published=published, shuffles=99, layers="0,2"), model, [RELATION])
    weights = reference.tensors_of(random_model)
    assert len(scores) == 16
    for one in scores:
        layer, own = one.head.layer, slice(one.head.index * 8, one.head.index * 8 + 8)
        w_v = np.split(weights[f"h.{layer}.attn.c_attn.weight"], 3, axis=1)[2][:, own]
        w_o = weights[f"h.{layer}.attn.c_proj.weight"][own]
        x_VD = weights["wte.weight"]
        if published:
            if layer > 0:
                x_VD = reference.mlp_states(weights, 1) - x_VD
            rows_VV = x_VD @ w_v @ w_o @ weights["wte.weight"].T
        else:
            b_v = np.split(weights[f"h.{layer}.attn.c_attn.bias"], 3)[2][own]
            normed_VD = reference.layer_norm(reference.mlp_states(weights, layer), weights, f"h.{layer}.ln_1")
            write_VD = (normed_VD @ w_v + b_v) @ w_o
            write_VD = (write_VD - write_VD.mean(axis=1, keepdims=True)) * weights["ln_f.weight"]
            rows_VV = write_VD @ (weights["wte.weight"] - weights["wte.weight"].mean(axis=0)).T
        own_P1 = rows_VV[RELATION.source_ids, RELATION.target_ids][:, None]
        above_P = (rows_VV[list(RELATION.source_ids)] > own_P1).sum(axis=1)
        below_P = (rows_VV[list(RELATION.source_ids)] < own_P1).sum(axis=1)
        assert one.promoted == (above_P < 40).mean()
        assert one.suppressed == (below_P < 40).mean()
        assert 0 < one.p <= one.p_any <= 1


@pytest.mark.slow
def test_copying_is_the_relation_of_a_word_with_itself(tmp_path: Path) -> None:
    model = Model.open("test", write_planted_writers(tmp_path / "model"))
    ids = tuple(model.ordinary_tokens()[300:340])
    scores = measure(Relations(shuffles=199), model, [TokenRelation("itself", ids, ids)])
    best = max(scores, key=lambda one: one.promoted)
    worst = max(scores, key=lambda one: one.suppressed)
    assert (best.head, worst.head) == (COPYING, SUPPRESSING)
    assert best.promoted > 0.8
    assert best.p == best.p_any == worst.p_suppressed == 1 / 200
    assert best.chance < 0.2
    assert min(one.p_any for one in scores if one is not best) > 0.05


def test_the_projects_lists_are_sound() -> None:
    lists = read_relations()
    assert {"plural", "capital", "antonym", "gender", "past tense", "succession of days"} <= set(lists)
    for pairs in lists.values():
        assert len(pairs) >= 7
        assert len(set(pairs)) == len(pairs)
        assert all(source != target for source, target in pairs)


def test_pairs_of_several_tokens_are_left_out(planted_tiny: Path) -> None:
    vocabulary = Model.open("test", planted_tiny).vocabulary
    words = ("cat", "dog", "red", "blue", "Monday", "Friday")
    pairs = tuple((one, other) for one, other in pairwise(words) if vocabulary.find_word(one))
    found, dropped = token_relations({"near": (*pairs, ("cat", "hippopotamus")), "far": (("a b", "c d"),)}, vocabulary)
    assert dropped == ["far"]
    assert [len(relation.source_ids) for relation in found] == [5]


@pytest.mark.slow
def test_the_command_takes_a_file(planted_tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("relation,source,target\n" + "".join(f"near,#{at},#{at + 1}\n" for at in range(20, 40)))
    command = ["relations", "--model", str(planted_tiny), "--pairs", str(file), "--shuffles", "99", "--layers", "1"]
    assert run([*command, "--json"]) == 0
    of_json = json.loads(capsys.readouterr().out)
    assert len(of_json["scores"]) == 8
    assert {one["form"] for one in of_json["scores"]} == {"as defined"}
    assert run([*command, "--csv", "--as-published", "--no-first-mlp"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["form"] for row in rows} == {"as published, without the first MLP"}
    assert run(command) == 0
    assert "near" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--k", "0"], ["--k 0"]),
        (["--as-published", "--states", "bos"], ["--states bos", "--as-published"]),
        (["--no-first-mlp"], ["--no-first-mlp", "--as-published"]),
        (["--json", "--csv"], ["--json and --csv"]),
        (["--pairs", "absent.csv"], ["absent.csv"]),
    ],
)
def test_malformed_requests_are_refused(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["relations", *arguments]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error
