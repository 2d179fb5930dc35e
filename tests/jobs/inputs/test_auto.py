"""Which states `auto` means: what it is measured on, how it is kept, and where nothing is measured."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.gguf_files import real_model

from qkatlas.jobs.full_vocab.spec import FullVocab
from qkatlas.jobs.inputs import auto
from qkatlas.jobs.inputs.auto import decide
from qkatlas.jobs.inputs.chosen_states import ChosenStates
from qkatlas.jobs.inputs.model import Model
from qkatlas.pipeline.circuit.context import ContextStates
from qkatlas.pipeline.circuit.states import States


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QKATLAS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def worded(planted_tiny: Path, tmp_path: Path) -> Path:
    """A planted model that does not say so: its tokenizer reads the calibration text."""
    folder = tmp_path / "worded"
    shutil.copytree(planted_tiny, folder)
    (folder / "truth.json").unlink()
    return folder


def measuring(monkeypatch: pytest.MonkeyPatch, medians: dict[str, float]) -> list[str]:
    """Let each candidate have a fidelity that the test says; the list is of those that were asked about."""
    asked: list[str] = []

    def fidelity(weights: object, tokens_BT: object, states: dict[str, States], **_: object) -> dict[str, np.ndarray]:
        asked.extend(states)
        kinds = {name: "context" if isinstance(of, ContextStates) else name for name, of in states.items()}
        # Layer 0 says the opposite: it must not count.
        return {
            name: np.stack([np.full(4, 1.0 - value), np.full(4, value)])
            for name, kind in kinds.items()
            for value in [medians[kind if kind in medians else "prefix"]]
        }

    monkeypatch.setattr(auto, "text_fidelity", fidelity)
    monkeypatch.setattr(auto, "text_loss", lambda *_, **__: 1.0)
    return asked


@pytest.mark.parametrize(
    ("medians", "kind"),
    [
        ({"mlp": 0.5, "prefix": 0.54, "context": 0.54}, "mlp"),
        ({"mlp": 0.5, "prefix": 0.56, "context": 0.60}, "prefix"),
        ({"mlp": 0.5, "prefix": 0.56, "context": 0.62}, "context"),
        ({"mlp": 0.5, "prefix": 0.2, "context": 0.56}, "context"),
        ({"mlp": -0.1, "prefix": -0.1, "context": -0.2}, "mlp"),
    ],
)
def test_what_costs_more_must_be_better_by_the_margin(
    worded: Path, monkeypatch: pytest.MonkeyPatch, medians: dict[str, float], kind: str
) -> None:
    measuring(monkeypatch, medians)
    assert decide(Model.open("m", worded)).kind == kind


def test_the_best_prefix_stands_in_front_of_the_windows_too(worded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model.open("m", worded)
    line = model.vocabulary.find("\n")
    bos = model.checkpoint.architecture.bos_token_id
    medians = {"mlp": 0.1, "prefix": 0.2, f"prefix #{line}": 0.3, "context": 0.5}
    asked = measuring(monkeypatch, medians)
    decision = decide(model)
    assert (decision.kind, decision.prefix) == ("context", (line,))
    assert {f"prefix #{bos}", f"prefix #{line}", "mlp", f"context #{line}"} <= set(asked)
    assert decision.fidelity[f"prefix #{line}"] == 0.3
    chosen = ChosenStates.fitted(FullVocab(), model)
    assert (chosen.kind, chosen.prefix) == ("context", (line,))
    (note,) = chosen.notes()
    assert f"context behind #{line}" in note
    explicit = ChosenStates.fitted(FullVocab(states="context", prefix=f"#{line}"), model)
    assert chosen.within({"head": "L1H5"}) == explicit.within({"head": "L1H5"})


def test_windows_are_of_passages_that_nothing_is_compared_on(worded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, np.ndarray] = {}

    def fidelity(weights: object, tokens_BT: np.ndarray, states: dict[str, States], **_: object) -> object:
        seen["compared"] = tokens_BT
        return {name: np.full((2, 4), 0.5) for name in states}

    def context(checkpoint: object, windows_WT: np.ndarray, **_: object) -> object:
        seen["windows"] = windows_WT
        return object()

    monkeypatch.setattr(auto, "text_fidelity", fidelity)
    monkeypatch.setattr(auto, "ContextStates", context)
    monkeypatch.setattr(auto, "text_loss", lambda *_, **__: 1.0)
    decide(Model.open("m", worded))
    compared = {
        tuple(row[at : at + 8]) for row in seen["compared"].tolist() for at in range(seen["compared"].shape[1] - 7)
    }
    pool = set(map(tuple, seen["windows"].tolist()))
    assert len(pool) > 100
    assert len(pool & compared) < 0.02 * len(pool)  # words may stand twice in the text, passages do not


def test_a_decision_is_kept_and_made_anew_when_it_cannot_be_read(
    worded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    medians = {"mlp": 0.1, "prefix": 0.4, "context": 0.4}
    asked = measuring(monkeypatch, medians)
    said: list[str] = []
    first = decide(Model.open("m", worded, said.append))
    assert len(said) == 1
    count = len(asked)
    assert decide(Model.open("m", worded, said.append)) == first
    assert len(asked) == count
    assert len(said) == 1
    (file,) = (tmp_path / "cache" / "auto").iterdir()
    for harm in ("", "{}", "[1]", json.dumps({**json.loads(file.read_text()), "kind": "mean"})):
        file.write_text(harm)
        assert decide(Model.open("m", worded)) == first
    assert len(asked) == 5 * count


def test_a_cache_that_cannot_be_written_costs_only_time(
    worded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measuring(monkeypatch, {"mlp": 0.1, "prefix": 0.4, "context": 0.4})
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QKATLAS_CACHE", str(tmp_path / "file"))
    assert decide(Model.open("m", worded)).kind == "prefix"


def test_planted_models_and_those_without_words_or_depth_take_mlp(
    planted_tiny: Path, random_model: Path, make_random_model: Callable[..., Path]
) -> None:
    for folder, reason in (
        (planted_tiny, "planted"), (random_model, "no tokenizer"), (make_random_model(n_layer=1), "one layer"),
    ):  # fmt: skip
        decision = decide(Model.open("m", folder))
        assert decision.kind == "mlp"
        assert reason in decision.reason
        assert not list(ChosenStates.fitted(FullVocab(), Model.open("m", folder)).notes())


@pytest.mark.parametrize(("below", "kind"), [(0.9, "mlp"), (1.1, "prefix"), (float("nan"), "mlp")])
def test_a_model_that_has_not_learned_the_text_takes_mlp(
    worded: Path, monkeypatch: pytest.MonkeyPatch, below: float, kind: str
) -> None:
    measuring(monkeypatch, {"mlp": 0.1, "prefix": 0.4, "context": 0.4})
    model = Model.open("m", worded)
    guessing = np.log(model.checkpoint.architecture.vocab_size)
    monkeypatch.setattr(auto, "text_loss", lambda *_, **__: guessing - below)
    assert decide(model).kind == kind


@pytest.mark.real
@pytest.mark.slow
def test_in_the_learned_model_it_is_context_and_mlp_predicts_nothing() -> None:
    model = Model.open("smollm2", real_model())
    decision = decide(model)
    assert decision.kind == "context"
    context = decision.fidelity[f"context #{decision.prefix[0]}"]
    assert context > 0.6
    assert decision.fidelity["mlp"] < 0.1
    assert context > max(value for name, value in decision.fidelity.items() if name.startswith("prefix")) + 0.15
