"""A command line as another machine is to run it, and what cannot be handed over."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkatlas.jobs.cli.handover import Handover
from qkatlas.jobs.loop.terminal import harmless
from qkatlas.jobs.main import run, submit

URL = "http://127.0.0.1:1"


def parsed(arguments: list[str]) -> click.Context:
    command = submit.commands[arguments[0]]
    return command.make_context(arguments[0], arguments[1:])


def meaning(context: click.Context) -> dict[str, object]:
    return {name: value for name, value in context.params.items() if name not in ("address", "detach")}


@pytest.mark.parametrize(
    "arguments",
    [
        ["full-vocab"],
        ["full-vocab", "--head=L2H1", "--top-k", "3", "--quiet", "--gpus", "0"],
        ["ablation", "--no-loss", "--kind", "zero"],
        ["ablation", "--loss", "--targets", "L1H5,L4"],
        ["steering", "--alpha", "-0.5,1", "--step=-0.2", "--in-model"],
        ["communities", "--resolution", "1.25", "--", "-run"],
        ["communities", "full-vocab", "--quality", "cpm"],
        ["features"],
        ["features", "/shared/sae", "--layers", "1"],
    ],
)
def test_a_command_line_means_the_same_on_the_cluster(arguments: list[str]) -> None:
    given_ = parsed([*arguments[:1], "--out", "/a folder/runs", "--address", URL, "--detach", *arguments[1:]])
    program = shlex.split(Handover.of(given_).entrypoint())
    assert program[:3] == ["python", "-m", "qkatlas"]
    there = parsed(program[3:])
    assert there.params["address"] == "auto"
    assert there.params["detach"] is False
    assert meaning(there) == meaning(given_)
    given_options = [argument for argument in arguments if argument.startswith("--") and argument != "--"]
    options = [argument for argument in program[6:] if argument.startswith("--") and argument != "--"]
    assert len(options) == len(given_options) + 1  # --out; what was not given is left to the defaults there


@pytest.mark.slow
@given(st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), max_size=20))
def test_the_shell_sees_every_argument_as_it_was(text: str) -> None:
    context = parsed(["full-vocab", "--model", text, "--out", "/runs"])
    if not text.isprintable():
        with pytest.raises(ValueError, match="do not travel"):
            Handover.of(context)
        return
    entrypoint = Handover.of(context).entrypoint().replace("python -m qkatlas", "printf '%s\\n'", 1)
    printed = subprocess.run(["/bin/sh", "-c", entrypoint], capture_output=True, check=True).stdout.decode()
    assert printed.splitlines()[1:] == ["--address", "auto", "--model", text, "--out", "/runs"]


def test_input_files_are_renamed_to_where_they_lie_in_the_package(tmp_path: Path) -> None:
    words, text = tmp_path / "my words.csv", tmp_path / "text"
    words.write_text("a,b")
    text.write_text("text")
    handover = Handover.of(parsed(["ablation", "--categories", str(words), "--text", str(text), "--out", "/runs"]))
    assert handover.inputs == {"inputs/categories/my words.csv": words, "inputs/text/text": text}
    assert "--categories 'inputs/categories/my words.csv'" in handover.entrypoint()
    assert str(tmp_path) not in handover.entrypoint()


@pytest.fixture(scope="module")
def web_server() -> Iterator[str]:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, *arguments: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Page)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["full-vocab", "--address", URL], ["--out runs is relative", "all nodes share", "s3://"]),
        (["full-vocab", "--address", URL, "--out", "~/runs"], ["--out ~/runs is relative"]),
        (["full-vocab", "--address", URL, "--out", "/r", "--model", "./m"], ["--model ./m", "the cluster reads"]),
        (["full-vocab", "--address", URL, "--out", "/r", "--model", "~/m"], ["--model ~/m", "the cluster reads"]),
        (["features", "./sae", "--address", URL, "--out", "/r"], ["SAE_DIR ./sae", "the cluster reads"]),
        (["full-vocab", "--address", URL, "--out", "/r"], [f"no Ray dashboard answers at --address {URL}", "ssh -L"]),
        (["full-vocab", "--address", URL, "--in-process"], [f"--address {URL} and --in-process exclude"]),
        (["full-vocab", "--address", "ray://head:10001"], ["ray://head:10001", "host:port"]),
        (["full-vocab", "--detach"], ["--detach", "--address http://"]),
        (["full-vocab", "--detach", "--address", "auto"], ["--detach", "--address http://"]),
        (["full-vocab", "--address", "http://u:secret@head:8265", "--out", "/r"], ["RAY_AUTH_TOKEN"]),
        (["full-vocab", "--address", "http://head:0x", "--out", "/r"], ["http://head:0x is no URL of a dashboard"]),
        (["full-vocab", "--address", "http://", "--out", "/r"], ["no URL of a dashboard"]),
        (["head-scan", "--address", URL, "--out", "/r", "--categories", "absent.csv"], ["--categories absent.csv"]),
        (["similarity", "--address", URL, "--out", "/r", "--frequencies", "absent.csv"], ["--frequencies absent.csv"]),
        (
            ["communities", "x", "--address", URL, "--out", "/r", "--export", "g.graphml"],
            ["--export g.graphml", "leave"],
        ),
        (["jobs", "--address", "head:6379"], ["head:6379 is no URL of a dashboard"]),
        (["jobs", "--address", ""], ["RAY_API_SERVER_ADDRESS"]),
        (["logs", "x", "--address", URL], ["no Ray dashboard answers"]),
        (["stop", "x", "--address", URL], ["no Ray dashboard answers"]),
    ],
)
def test_what_cannot_be_handed_over_is_one_line(
    arguments: list[str], named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    printed, error = capsys.readouterr()
    assert printed == ""
    assert error.startswith("submit: error: ")
    assert error.count("\n") == 1
    assert "secret" not in error
    for text in named:
        assert text in error


def test_another_web_server_is_no_dashboard(web_server: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["jobs", "--address", web_server]) == 2
    error = capsys.readouterr().err
    assert f"no Ray dashboard answers at --address {web_server} (" in error
    assert error.count("\n") == 1


def test_what_others_wrote_does_not_steer_the_terminal() -> None:
    assert harmless("a\tb\r\nred \x1b[31m \x9b1m é \x07") == "a\tb\r\nred \\x1b[31m \\x9b1m é \\x07"
    assert harmless("one\ntwo\x00", one_line=True) == "one\\ntwo\\x00"


def test_an_interrupted_submission_is_no_bad_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Dashboard:
        def submit(self, *arguments: object) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr("qkatlas.jobs.cli.handover.open_dashboard", lambda address: Dashboard())
    assert run(["full-vocab", "--address", URL, "--out", "/r"]) == 130
    printed, error = capsys.readouterr()
    assert printed == ""
    assert error.startswith("submit: interrupted before the cluster confirmed job qkatlas-full-vocab-")
    assert error.endswith(f"; look for it with: submit jobs --address {URL}\n")
