"""An S3 server on loopback (moto's) behind a layer that injects faults, for tests of object stores."""

from __future__ import annotations

import io
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pyarrow.fs

ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
"""What a client of the server has in its environment."""

_CODES = {"500": "InternalError", "503": "SlowDown", "403": "AccessDenied"}


@dataclass
class Server:
    """The running server.

    Attributes:
        address: `host:port`.
        requests: (method, path and query) of all requests so far, those that were made to fail among them.
        fault: names the fault for a request, if any: `500`, `503`, `403`, `reset`, `unanswered` (done,
            then reset), or seconds to wait.
    """

    address: str
    requests: list[tuple[str, str]] = field(default_factory=list)
    fault: Callable[[str, str], str | float | None] | None = None

    def uri(self, path: str) -> str:
        """The URI of a bucket's prefix."""
        return f"s3://{path}?endpoint_override={self.address}&scheme=http&region=us-east-1"

    def make_bucket(self, name: str) -> None:
        """Make a bucket, which our code never does."""
        options = {"scheme": "http", "region": "us-east-1", "allow_bucket_creation": True}
        pyarrow.fs.S3FileSystem(endpoint_override=self.address, **options).create_dir(name)

    def keys(self, bucket: str) -> list[str]:
        """All objects of a bucket, markers of folders among them."""
        return sorted(_bucket(bucket).keys)

    def age(self, bucket: str, key: str, seconds: float) -> None:
        """Make an object older than it is."""
        _bucket(bucket).keys[key].last_modified -= timedelta(seconds=seconds)

    @contextmanager
    def faults(self, fault: Callable[[str, str], str | float | None]) -> Iterator[None]:
        """Make requests fail while the block lasts."""
        self.fault = fault
        try:
            yield
        finally:
            self.fault = None


def _bucket(name: str) -> Any:
    from moto.s3.models import s3_backends

    return next(backend["aws"].buckets[name] for backend in s3_backends.values() if name in backend["aws"].buckets)


def every(share: float, kinds: Iterable[str | float], *, seed: int, in_a_row: int) -> Callable[..., Any]:
    """Faults of some kinds for a share of all requests, drawn by a seed, but never more than some in a row."""
    draw, chosen, lock = random.Random(seed), list(kinds), threading.Lock()
    row = 0

    def fault(method: str, target: str) -> str | float | None:
        nonlocal row
        with lock:
            row = row + 1 if draw.random() < share and row < in_a_row else 0
            return draw.choice(chosen) if row else None

    return fault


@contextmanager
def serve() -> Iterator[Server]:
    """Start a server with no buckets on a free port."""
    os.environ.update(ENVIRONMENT)
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    application = DomainDispatcherApplication(create_backend_app)

    class Handler(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def run_wsgi(self) -> None:
            server.requests.append((self.command, self.path))
            fault = server.fault(self.command, self.path) if server.fault else None
            if fault == "unanswered":
                wire, self.wfile = self.wfile, io.BytesIO()
                super().run_wsgi()
                self.wfile = wire
            if fault in ("reset", "unanswered"):
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                # The reader and the writer hold the socket open too.
                self.connection.shutdown(socket.SHUT_RD)
                self.close_connection = True
                self.wfile.close()
                self.rfile.close()
                os.close(self.connection.detach())
                raise ConnectionResetError
            if isinstance(fault, str):
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.close_connection = True
                self.send_response(int(fault))
                body = f"<Error><Code>{_CODES[fault]}</Code><Message>injected</Message></Error>".encode()
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Connection", "close")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)
                return
            if fault is not None:
                time.sleep(fault)
            super().run_wsgi()

        def log(self, *arguments: object) -> None:
            pass

    listening = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Handler)
    listening.daemon_threads = True
    server = Server(f"127.0.0.1:{listening.port}")
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listening.shutdown()
        listening.server_close()
