"""A cluster of one head with a dashboard that asks for a token, and a user of another machine who knows it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TOKEN = "0123456789abcdef0123456789abcdef"
PORTS = (
    "port",
    "dashboard-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "metrics-export-port",
    "runtime-env-agent-port",
    "ray-client-server-port",
)


@dataclass(frozen=True)
class Head:
    """A head of a cluster, and a user of another machine who knows its token."""

    address: str
    join: str
    user: Mapping[str, str]

    def start(self, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "qkatlas", *map(str, arguments)],
            env={**self.user, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: object, **environment: str) -> tuple[int, str, str]:
        process = self.start(*arguments, **environment)
        printed, error = process.communicate(timeout=300)
        return process.returncode, printed, error

    def submit(self, job: str, out: Path, *arguments: object, **environment: str) -> tuple[int, str, str]:
        request = (job, "--model", "planted-tiny", "--out", out, "--gpus", "0", *arguments)
        return self.run(*request, "--address", self.address, **environment)


def free_ports() -> dict[str, int]:
    sockets = {name: socket.create_server(("127.0.0.1", 0)) for name in PORTS}
    ports = {name: opened.getsockname()[1] for name, opened in sockets.items()}
    for opened in sockets.values():
        opened.close()
    return ports


def answers(address: str) -> bool:
    try:
        urllib.request.urlopen(f"{address}/api/version", timeout=5).close()
    except urllib.error.HTTPError as error:
        return error.code == 401  # it asks for the token
    except OSError:
        return False
    return False


@contextmanager
def start_head(home: Path) -> Iterator[Head]:
    """Start one; it ends with the block.

    Args:
        home: an empty folder, the home of the head's user and of ours.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHON"))}
    # What the head finds by itself is not the code that is tested: that has to come with each job.
    programs = f"{Path(sys.executable).parent}:{kept['PATH']}"
    cluster = {**kept, "PATH": programs, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "HOME": str(home)}
    ports = free_ports()
    with tempfile.TemporaryDirectory(
        prefix="qk-", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:  # short, for sockets
        start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2"]
        start += [f"--{name}={port}" for name, port in ports.items()]
        process = subprocess.Popen(
            [*start, "--disable-usage-stats", f"--temp-dir={folder}", "--node-ip-address=127.0.0.1"],
            env=cluster,
            cwd=home,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            user = {**kept, "HOME": str(home), "QKATLAS_CACHE": str(home / "absent")}
            user |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
            head = Head(f"http://127.0.0.1:{ports['dashboard-port']}", f"127.0.0.1:{ports['port']}", user)
            deadline = time.monotonic() + 60
            while not answers(head.address):
                assert process.poll() is None, "the head did not start"
                assert time.monotonic() < deadline, "the dashboard did not start"
                time.sleep(0.2)
            yield head
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
