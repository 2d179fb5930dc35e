"""Names and paths of any kind: one line and exit code 2, at once, whatever lies there; readers tell it of that run."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir
from pathlib import Path
from typing import NoReturn

import pytest
from support.report_tables import token_tables
from support.small_runs import finish

from qkatlas.jobs.main import run
from qkatlas.outputs.runs import soundness, store
from qkatlas.outputs.runs.run import Run

_SECONDS = 20
"""How long a test may take: what waits for a pipe's writer would wait for ever."""

ACTING = "a\x1b[2J\x07\n\r\u202e\u2028b"
"""A name that a terminal would obey."""

NO_NAMES = {
    "empty": "", "blank": "  ", "long": "x" * 300, "deep": "a/" * 3000, "unknown home": "~nosuchuser/x",
    "zero byte": "a\0b", "not UTF-8": "caf\udce9", "acting": ACTING,
}  # fmt: skip
"""Names by what is odd about them; nothing lies there."""


class HungError(BaseException):
    """Not to be caught by what is tested."""


@pytest.fixture(autouse=True)
def _ends() -> Iterator[None]:
    def ring(*_: object) -> NoReturn:
        raise HungError

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def bind(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound, chdir(place.parent):  # the path of a socket is at most 107 bytes
        bound.bind(place.name)


NO_FILES: Mapping[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a socket": bind,
    "a device": lambda place: place.symlink_to("/dev/zero"),
    "a folder": lambda place: place.mkdir(),
    "a link to itself": lambda place: place.symlink_to(place.name),
    "a link to nothing": lambda place: place.symlink_to("nowhere"),
}
"""What may lie where a file should."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, which holds one of each kind, by its name."""
    place = tmp_path / "here"
    place.mkdir()
    for name, make in NO_FILES.items():
        make(place / name)
    (place / "a file").write_text("x")
    monkeypatch.chdir(place)
    return place


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, finish_run: Callable[..., Path]) -> Path:
    """A folder that holds a run which a report shows."""
    out = tmp_path_factory.mktemp("runs")
    finish_run(out, "full-vocab", token_tables(), {"head": "L1H5", "states": "mlp", "scores": "attention"})
    return out


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line on which a request ends."""
    capsys.readouterr()
    code = run([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    assert (code, printed.out) == (2, ""), printed.err
    assert printed.err.startswith("submit: error: ")
    assert printed.err.endswith("\n")
    line = printed.err[:-1]
    assert line.isprintable()
    assert len(line) < 900
    assert ";" in line, "what to do"
    return line


FILE_OPTIONS = [
    ("ablation", "--text"), ("ablation", "--categories"), ("steering", "--group"), ("reproduce", "--frequencies"),
]  # fmt: skip


@pytest.mark.parametrize("name", [*NO_NAMES.values(), *NO_FILES, "a file/x", "/dev/null"])
@pytest.mark.parametrize(("job", "option"), FILE_OPTIONS)
def test_a_file_that_cannot_be_read(
    job: str, option: str, name: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, job, "--model", "/nowhere", "--in-process", "--out", here / "out", option, name)
    assert line.startswith(f"submit: error: {option} ")
    assert not (here / "out").exists()


@pytest.mark.parametrize("name", ["", "  ", "deep/" * 1000, "a\0b", "~nosuchuser/x", *NO_FILES, "a file", "a file/x"])
def test_a_file_that_cannot_be_written(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(here.iterdir())
    line = refused(capsys, "communities", "none", "--out", here / "out", "--in-process", "--export", name)
    assert "--export" in line or "File name too long" in line
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize(
    "name", [*NO_NAMES.values(), *NO_FILES, "a link to itself/x", "a file", "a file/x", "/dev/null"]
)
@pytest.mark.parametrize("command", [("full-vocab", "--in-process"), ("plan", "full-vocab")])
def test_a_model_that_is_none(
    command: tuple[str, ...], name: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "config.json").write_text("{}")  # of the working folder, which no name of these means
    before = sorted(here.iterdir())
    line = refused(capsys, *command, "--model", name)
    if not name.strip():
        assert line.startswith("submit: error: --model ")
    if name in NO_FILES:
        assert "hub" not in line.partition(";")[0], "it is there"
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize("name", [*NO_NAMES.values(), *NO_FILES, "a file", "a file/x", "/dev/null"])
@pytest.mark.parametrize("command", [("status",), ("verify",), ("report",), ("communities", "--in-process")])
def test_a_run_that_is_none(
    command: tuple[str, ...], name: str, here: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(here.iterdir())
    refused(capsys, *command, "--runs" if command == ("report",) else "--out", runs, "--", name)
    assert sorted(here.iterdir()) == before


NO_FOLDERS = [
    *(NO_NAMES[kind] for kind in NO_NAMES if kind != "acting"),
    *(kind for kind in NO_FILES if kind not in ("a folder", "a link to nothing")), "a file", "a file/x",
    "a link to itself/x", "/dev/null",
]  # fmt: skip


@pytest.mark.parametrize("name", NO_FOLDERS)
def test_a_folder_of_runs_that_is_none(
    name: str, here: Path, random_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(here.iterdir())
    refused(capsys, "runs", "--out", name)
    refused(capsys, "status", "latest", "--out", name)
    line = refused(capsys, "report", "latest", "--runs", name, "--out", "report.html")
    assert "--out" not in line
    refused(capsys, "full-vocab", "--model", random_model, "--in-process", "--out", name)
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize("name", [*NO_FOLDERS, "a link to nothing", "a link to nothing/x", "a file/x/y", "/dev/null/x"])
def test_a_report_that_cannot_be_written(name: str, here: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(here.iterdir())
    refused(capsys, "report", "latest", "--runs", runs, "--out", name)
    assert sorted(here.iterdir()) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["", "  ", "x" * 300, "a\0b", "~nosuchuser/x", *(kind for kind in NO_FILES if kind != "a folder"), "a file/x"],
)
def test_a_planted_model_that_cannot_be_written(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(here.iterdir())
    refused(capsys, "model", "planted", "--size", "tiny", "--", name)
    assert sorted(here.iterdir()) == before


@pytest.mark.slow
def test_names_that_a_terminal_would_obey_are_shown_as_escapes(
    here: Path, planted_tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(planted_tiny, ACTING)
    monkeypatch.setenv("QKATLAS_CACHE", str(here / ACTING))
    for command in (
        ("plan", "full-vocab", "--model", ACTING),
        ("full-vocab", "--model", ACTING, "--in-process", "--out", f"{ACTING}/out"),
        ("runs", "--out", f"{ACTING}/out"),
        ("verify", "latest", "--out", f"{ACTING}/out"),
        ("status", "latest", "--out", f"{ACTING}/out"),
        ("report", "latest", "--runs", f"{ACTING}/out", "--out", f"{ACTING}/report.html"),
        ("model", "planted", f"{ACTING}/planted", "--size", "tiny"),
        ("full-vocab", "--model", "planted-tiny", "--in-process", "--out", "out"),  # made in the cache, which is named
    ):
        assert run(command) == 0
        printed = capsys.readouterr()
        lines = (printed.out + printed.err).split("\n")
        assert [line for line in lines if not line.isprintable()] == []
        if command[0] not in ("runs", "verify"):  # which name runs alone
            assert any(r"\u202e\u2028b" in line for line in lines), "it is still told"


def test_what_a_pipe_with_a_writer_holds_is_not_lost(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def write() -> None:
        with open("a pipe", "w") as pipe:
            pipe.write("token,id,count\n")

    writer = threading.Thread(target=write)
    writer.start()
    line = refused(capsys, "reproduce", "--frequencies", "a pipe")
    assert line.endswith("--frequencies a pipe is a named pipe; name a file, or write <(COMMAND) in place of it")
    assert writer.is_alive()
    assert Path("a pipe").read_text() == "token,id,count\n"
    writer.join()


def test_a_pipe_of_the_shells_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"token,id,count\nthe,x,3\n")
    os.close(writing)
    line = refused(capsys, "reproduce", "--frequencies", f"/dev/fd/{reading}")
    os.close(reading)
    assert "is malformed (line 2: 'x' is no number" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_this_user_may_not_read_is_named(here: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "a file").chmod(0)
    (here / "a folder").chmod(0)
    try:
        for job, option in FILE_OPTIONS:
            line = refused(capsys, job, "--model", "/nowhere", "--in-process", option, "a file")
            assert "Permission denied" in line
        refused(capsys, "full-vocab", "--in-process", "--model", "a folder")
        refused(capsys, "runs", "--out", "a folder")
        refused(capsys, "report", "latest", "--runs", runs, "--out", "a folder/x")
        refused(capsys, "report", "latest", "--runs", runs, "--out", "a file")
    finally:
        (here / "a folder").chmod(0o700)


@pytest.mark.parametrize("kind", NO_FILES)
def test_a_configuration_that_is_no_file(
    kind: str, planted_tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(shutil.copytree(planted_tiny, tmp_path / "model"))
    (model / "config.json").unlink()
    NO_FILES[kind](model / "config.json")
    for command in (("full-vocab", "--in-process", "--out", tmp_path / "out"), ("plan", "full-vocab")):
        assert "config.json" in refused(capsys, *command, "--model", model)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("file", ["model.safetensors", "model.safetensors.index.json", "x.gguf"])
def test_weights_that_are_no_file(
    file: str, kind: str, planted_tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(shutil.copytree(planted_tiny, tmp_path / "model"))
    (model / "model.safetensors").unlink()
    if file.endswith(".gguf"):
        (model / "config.json").unlink()
    NO_FILES[kind](model / file)
    refused(capsys, "full-vocab", "--in-process", "--model", model, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "vocab.json", "added_tokens.json"])
def test_a_tokenizer_that_is_no_file_is_none(file: str, kind: str, planted_tiny: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(planted_tiny, tmp_path / "model"))
    (model / file).unlink(missing_ok=True)
    NO_FILES[kind](model / file)
    assert run(["full-vocab", "--in-process", "--model", str(model), "--out", str(tmp_path / "out"), "--quiet"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("file", ["manifest.json", "_state/plan.json", "_state/receipts.jsonl", "_state/failures.log"])
def test_a_record_that_is_no_file_is_told_beside_the_others_and_repaired(
    file: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoilt, sound = finish(tmp_path), finish(tmp_path, other=1)
    place = Path(spoilt.folder) / file
    place.unlink(missing_ok=True)
    NO_FILES[kind](place)
    assert run(["runs", "--out", str(tmp_path)]) == 0
    states = dict(line.split(",")[0].split(": ") for line in capsys.readouterr().out.splitlines())
    found = states.pop(spoilt.folder.name)
    assert states == {sound.folder.name: "complete"}
    if file == "manifest.json":
        assert found == ("incomplete" if kind == "a link to nothing" else "damaged")
    for command in ("status", "verify"):
        assert run([command, spoilt.folder.name, "--out", str(tmp_path)]) in (0, 1, 2)
        assert len(capsys.readouterr().err.splitlines()) <= 1
    (Path(spoilt.folder) / "tokens.parquet").unlink()  # or else nothing has to be done
    assert soundness.faults(finish(tmp_path)) == []
    assert store.status(Run(spoilt.folder)).state == "complete"


@pytest.mark.parametrize("kind", NO_FILES)
def test_a_lock_that_is_no_file_keeps_nobody_from_reading(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinished = finish(tmp_path)
    (Path(unfinished.folder) / "manifest.json").unlink()
    (Path(unfinished.folder) / "_state/lock").unlink()
    NO_FILES[kind](Path(unfinished.folder) / "_state/lock")
    assert run(["runs", "--out", str(tmp_path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize("kind", NO_FILES)
def test_a_table_that_is_no_file_is_found_and_set_aside(kind: str, tmp_path: Path) -> None:
    one = finish(tmp_path)
    stranger, table = Path(one.folder) / "topk/L0H0/strange.parquet", Path(one.folder) / "tokens.parquet"
    table.unlink()
    NO_FILES[kind](stranger)
    NO_FILES[kind](table)
    faults = soundness.faults(one)
    assert faults[0] == "tokens.parquet is missing"
    assert len(faults) == (1 if kind == "a folder" else 2)
    assert soundness.faults(finish(tmp_path)) == []
    assert not os.path.lexists(stranger)
