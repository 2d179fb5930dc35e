"""A run that is pushed to a stub of the hub on loopback: what arrives, who is refused and how, and the token unseen."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from huggingface_hub import constants
from support.commands import ended, start
from support.hub_server import TOKEN, Hub, serve

from qkatlas.jobs.main import run as submit
from qkatlas.jobs.publish.data_set import publish
from qkatlas.jobs.publish.hub import DataSetRepository
from qkatlas.outputs.runs import store

URI = "hf://datasets/me/it"


@pytest.fixture
def out(finish_run: Callable[..., Path], tmp_path: Path) -> Path:
    ids = pa.array(range(3), pa.int32())
    tables = {"tokens.parquet": pa.table({"token_id": ids, "text": ["a", "b", "c"]})}
    for head in (0, 1):
        tables[f"self/L0H{head}/part-0.parquet"] = pa.table({"token_id": ids, "self_rank": ids})
    finish_run(tmp_path / "runs", "full-vocab", tables, {"head": "L0H0"})
    return tmp_path / "runs"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serve() as served:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", served.address)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield served


def push(out: Path, folder: Path, *, private: bool = False) -> str:
    publish(store.find(out, "latest"), folder, weights_licence="mit", say=lambda line: None)
    return DataSetRepository.of(URI).push(folder, private=private, message="Publish it")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_push_makes_the_data_set_and_sends_every_file(out: Path, hub: Hub, tmp_path: Path) -> None:
    assert push(out, tmp_path / "set", private=True) == f"{hub.address}/datasets/me/it"
    sent = hub.files["me/it"]
    assert hub.private == {"me/it": True}
    assert {path: sent[path] for path in sent if path != ".gitattributes"} == contents(tmp_path / "set")
    assert {"README.md", "run.json", "data/self/00001-of-00002.parquet"} <= set(sent)


def test_a_second_push_replaces_the_first(out: Path, hub: Hub, tmp_path: Path) -> None:
    push(out, tmp_path / "set")
    hub.files["me/it"]["data/self/00002-of-00003.parquet"] = b"of an earlier run"
    push(out, tmp_path / "again")
    assert set(hub.files["me/it"]) == {".gitattributes", *contents(tmp_path / "again")}


def test_a_data_set_of_something_else_is_left_alone(out: Path, hub: Hub, tmp_path: Path) -> None:
    hub.files["me/it"] = {"data/theirs.parquet": b"theirs"}
    with pytest.raises(ValueError, match="holds files that are no published run; name a data set that is new"):
        push(out, tmp_path / "set")
    assert hub.files["me/it"] == {"data/theirs.parquet": b"theirs"}


def test_who_may_not_write_is_told_so_in_one_line(
    out: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(ValueError, match=r"was not written: the hub does not know the token; log in") as refused:
        push(out, tmp_path / "unknown")
    assert "hf_another" not in str(refused.value)
    for status, said in ((403, "may not write there"), (404, "no such user"), (500, "answers 500: as the test wants")):
        hub.answer = status
        with pytest.raises(ValueError, match=said) as refused:
            push(out, tmp_path / str(status))
        assert "\n" not in str(refused.value)
    assert hub.files == {}


def test_without_a_network_that_is_what_is_said(
    out: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"http://127.0.0.1:9 cannot be reached \(.*refused"):
        push(out, tmp_path / "set")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"cannot be reached \(.*offline mode is enabled"):
        push(out, tmp_path / "offline")


def test_bad_places_and_a_missing_token_are_refused_before_anything_is_read(
    out: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in ("hf://me/it", "hf://datasets/it", "hf://datasets/me/it/more", "hf://datasets/me/-it--"):
        assert submit(["publish", "none-such", place, "--out", str(out)]) == 2
        assert f"{place} is no data set of the hub; give hf://datasets/OWNER/NAME" in capsys.readouterr().err
    monkeypatch.delenv("HF_TOKEN")
    assert submit(["publish", "none-such", URI, "--out", str(out)]) == 2
    assert "needs a token; log in with: hf auth login, or set HF_TOKEN" in capsys.readouterr().err
    assert submit(["publish", "latest", str(tmp_path / "x"), "--private", "--out", str(out)]) == 2
    assert "--private is for data sets of the hub" in capsys.readouterr().err
    assert hub.requests == []


@pytest.mark.slow
def test_the_command_sends_it_with_the_saved_login_and_shows_no_token(out: Path, hub: Hub, tmp_path: Path) -> None:
    saved = tmp_path / "home" / "token"
    saved.parent.mkdir()
    saved.write_text(TOKEN)
    env = {name: value for name, value in os.environ.items() if name not in ("HF_TOKEN", "HF_HUB_OFFLINE")}
    env |= {"HF_ENDPOINT": hub.address, "HF_HOME": str(saved.parent), "HF_HUB_DISABLE_XET": "1"}
    code, printed, error = ended(start("publish", "latest", URI, "--out", out, env=env))
    assert code == 0, error
    assert "loaded back: 2 tables" in printed
    assert f"sent to {hub.address}/datasets/me/it" in printed
    assert "next: datasets.load_dataset('me/it', 'self', split='train')" in printed
    assert set(hub.files["me/it"]) > {"README.md", "run.json"}
    saved.write_text("hf_another")
    code, refused, error = ended(start("publish", "latest", URI, "--out", out, env=env))
    assert (code, error.count("\n")) == (2, 1)
    assert "the hub does not know the token" in error
    assert not [text for text in (printed, refused, error) if TOKEN in text or "hf_another" in text]
    assert all(TOKEN.encode() not in content for content in hub.files["me/it"].values())
