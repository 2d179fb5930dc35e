"""Folders: the same promises on a disk and in an object store."""

from __future__ import annotations

import hashlib
import pickle
import re
import uuid
from collections.abc import Callable
from pathlib import Path

import pyarrow.fs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.object_store import Server

from qkatlas.outputs.places.folder import Folder
from qkatlas.outputs.places.local_folder import LocalFolder
from qkatlas.outputs.places.lock import RunIsBusyError
from qkatlas.outputs.places.open import open_folder

Make = Callable[[], Folder]


@pytest.fixture(params=["local", "s3"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Opens folders that are not there yet."""
    if request.param == "local":
        return lambda: open_folder(tmp_path / uuid.uuid4().hex)
    server: Server = request.getfixturevalue("store_server")
    return lambda: open_folder(server.uri(f"atlas/folders/{uuid.uuid4().hex}"))


PATHS = st.lists(st.sampled_from(["a", "b", "layer=1", "_state", ".x", "ü é"]), min_size=1, max_size=3).map("/".join)


@pytest.mark.slow
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(PATHS.map("{}.bin".format), st.binary(max_size=40)), max_size=6))
def test_what_is_written_is_read_listed_and_hashed(make: Make, written: list[tuple[str, bytes]]) -> None:
    folder = make()
    for path, content in written:
        folder.write(path, content)
    last = dict(written)
    for path, content in last.items():
        assert folder.read(path) == content
        assert folder.size(path) == len(content)
        assert folder.sha256(path) == hashlib.sha256(content).hexdigest()
    seen = {path for path in last if not any(name.startswith((".", "_")) for name in path.split("/"))}
    assert folder.files() == {path: len(last[path]) for path in seen}
    assert [child.name for child in folder.folders()] == sorted({path.split("/")[0] for path in last if "/" in path})
    with pytest.raises(FileNotFoundError):
        folder.read("none")
    with pytest.raises(FileNotFoundError):
        folder.sha256("none")
    assert folder.size("none") is None


def test_a_file_is_moved_whole(make: Make) -> None:
    folder = make()
    folder.write("topk/a.parquet", b"content")
    folder.move("topk/a.parquet", "_state/quarantine/a.parquet")
    assert folder.files() == {}
    assert folder.read("_state/quarantine/a.parquet") == b"content"
    with pytest.raises(FileNotFoundError):
        folder.move("topk/a.parquet", "b")


def test_a_folder_that_is_not_there_is_empty(make: Make) -> None:
    folder = make()
    folder.require_reachable()
    assert folder.files() == {}
    assert folder.folders() == []
    assert not folder.log("_state/receipts.jsonl").exists()
    assert folder.log("_state/receipts.jsonl").lines() == []
    assert not folder.is_driven("_state")


@pytest.mark.slow
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 99).map(str), max_size=9), st.integers(1, 4))
def test_a_log_keeps_the_lines_of_all_drivers_in_order(make: Make, lines: list[str], drivers: int) -> None:
    folder, expected = make(), []
    folder.write("_state/x", b"")
    for driver in range(drivers):
        log = folder.log("_state/receipts.jsonl")
        for line in lines:
            expected.append(f"{driver} {line}".encode())
            log.append(expected[-1])
    assert [line for line in folder.log("_state/receipts.jsonl").lines() if line] == expected


@pytest.mark.slow
def test_one_driver_at_a_time(make: Make) -> None:
    folder = make()
    with folder.exclusive("_state") as still_held:
        still_held(True)
        assert folder.is_driven("_state")
        with pytest.raises(RunIsBusyError, match="is being computed by process"), folder.exclusive("_state"):
            pass
        still_held(True)
    assert not folder.is_driven("_state")
    with folder.exclusive("_state"):
        pass


def test_a_worker_gets_the_place_alone(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make()
    folder.write("a", b"1")
    text = pickle.dumps(folder)
    monkeypatch.chdir(tmp_path)
    assert len(text) < 400
    assert b"AWS" not in text
    assert pickle.loads(text).read("a") == b"1"
    monkeypatch.chdir("/")
    relative = pickle.dumps(LocalFolder("tmp"))
    monkeypatch.chdir(tmp_path)
    assert str(pickle.loads(relative)) == "/tmp"


def test_names_stay_natural(make: Make) -> None:
    folder = make()
    inner = folder / "topk"
    assert inner.name == "topk"
    assert inner.parent == folder
    assert open_folder(str(inner)) == inner
    assert open_folder(inner) is inner
    assert inner.path == f"{folder.path}/topk"


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("ftp://host/runs", "ftp:// is not supported"),
        ("hdfs://host/runs", "s3://bucket/prefix or gs://bucket/prefix"),
        ("s3://", "names no bucket"),
        ("s3://key:secret@bucket/runs", "holds credentials"),
        ("s3://bucket/../runs", "names no bucket"),
        ("s3://bucket/runs?acces_key=x", "option acces_key; choose among endpoint_override"),
        ("s3://bucket/runs?region", "not name=value"),
        (
            "s3://bucket/runs?endpoint_override=http%3A//key:secret@host:9000",
            "endpoint_override of s3://bucket/runs holds",
        ),
        ("file://host/runs", "names a host"),
    ],
)
def test_a_place_that_cannot_be_opened_is_refused_in_one_line(place: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        open_folder(place)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options",
    [
        "endpoint_override=http://127.0.0.1:9/&anonymous=true",
        "endpoint_override=127.0.0.1:9&scheme=http&anonymous=false&region=x",
    ],
)
def test_the_source_for_pandas_opens_the_same_store(options: str) -> None:
    folder = open_folder(f"s3://bucket/runs?{options}")
    path, opened = eval(
        f"(lambda path, filesystem: (path, filesystem))({folder.pandas_arguments('self')})", {"pyarrow": pyarrow}
    )
    assert path == "bucket/runs/self"
    assert opened.region == folder.filesystem.region
    assert opened.__reduce__()[1][0]["endpoint_override"] == "127.0.0.1:9"


def test_a_file_uri_is_a_local_folder(tmp_path: Path) -> None:
    assert open_folder(f"file://{tmp_path}") == LocalFolder(tmp_path)
