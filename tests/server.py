"""A real HTTP server on loopback whose answers a test chooses, good or bad."""

from __future__ import annotations

import functools
import http.server
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


class Server(http.server.ThreadingHTTPServer):
    """Answers by path; anything else is 404."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Answer] = {}
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that go away are what some tests are about."""


class Handler(http.server.BaseHTTPRequestHandler):
    """Looks the answer up."""

    server: Server

    def do_GET(self) -> None:
        self.server.answers.get(self.path, status(404))(self)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without a line for each request."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving_folder(folder: Path) -> Iterator[str]:
    """Serve files as any static server would; give the address, with a slash at its end."""
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@contextmanager
def serving() -> Iterator[Server]:
    """Run a server for the length of a `with` block."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()


def body(content: bytes, length: int | None = -1) -> Answer:
    """Answer with content; its length is stated truly (-1), as `length`, or not at all (None)."""

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        if length is not None:
            handler.send_header("Content-Length", str(len(content) if length < 0 else length))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def status(code: int) -> Answer:
    return lambda handler: handler.send_error(code)


def redirect(url: str) -> Answer:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", url)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def reset(content: bytes) -> Answer:
    """Send half of the content, then reset the connection (RST, by a linger time of 0)."""

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        body(content[: len(content) // 2], len(content))(handler)
        handler.wfile.flush()
        linger = struct.pack("ii", 1, 0)
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        # socketserver would shut it down properly, which is what must not happen.
        handler.server.shutdown_request = lambda request: None  # type: ignore[method-assign]
        handler.connection.close()

    return answer


def stall(content: bytes) -> Answer:
    """Send half of the content, then nothing more, with the connection open."""

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        body(content[: len(content) // 2], len(content))(handler)
        handler.wfile.flush()
        assert isinstance(handler.server, Server)
        handler.server.closing.wait(30)

    return answer


def drip(start: bytes = b"HTTP/1.0 200 OK\r\n\r\n") -> Answer:
    """Send something, then a byte now and then, more often than any timeout; it does not end."""

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.wfile.write(start or b"HTTP/1.0 200 ")
        assert isinstance(handler.server, Server)
        while not handler.server.closing.wait(0.05):
            handler.wfile.write(b"0")

    return answer
