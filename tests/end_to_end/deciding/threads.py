"""Servers with threads: a WSGI application, and a handler of http.server if run as a program."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from websocket_handler import WebSocket, WSGIMiddleware, configure_server, default_engine

from .situations import AFTER, Response, page, respond

BROWSER_VERSIONS = threading.Event()


def respond_in_thread(ws: WebSocket | None, path: str) -> Response:
    if ws is None:
        return page(default_engine())
    if path == "/late":
        ws.connect()
        ws.receive(10)
        return Response(401, [], b"")
    if path == AFTER:
        BROWSER_VERSIONS.clear()
        ws.on("message", lambda _: BROWSER_VERSIONS.set())
    return respond(ws, path)


# WSGI


class Result:
    """Continues in its `close()`, as teardown functions do, or fails there."""

    def __init__(self, path: str, body: bytes) -> None:
        self._path = path
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        yield self._body

    def close(self) -> None:
        if self._path == AFTER and not BROWSER_VERSIONS.wait(20):
            raise TimeoutError("the client did not speak")
        if self._path == "/close-raises":
            raise RuntimeError("as the test wants it")


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    ws: WebSocket | None = environ["wsgi.websocket"]
    if path == "/generator-raises":
        return generator(ws)
    if path == "/connects-too-late":
        return connects_too_late(ws, start_response)
    status, fields, body = respond_in_thread(ws, path)
    write = start_response(f"{status} Some Reason", fields)
    if path == "/writes":
        write(b"unseen")
        return []
    if path == "/start-raises":
        raise RuntimeError("as the test wants it")
    return Result(path, body)


def generator(ws: Any) -> Iterator[bytes]:
    ws.connect()
    raise RuntimeError("as the test wants it")
    yield b""


def connects_too_late(ws: Any, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [])
    yield b"an ordinary "
    try:
        ws.connect()
    except Exception as error:
        yield str(error).encode()


app = WSGIMiddleware(application)


# http.server


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    websocket: WebSocket | None

    def do_GET(self) -> None:
        path = self.path
        if path == "/send-error":
            self.websocket.connect()  # type: ignore[union-attr]
            self.send_error(410, "Gone for good")
            return
        status, fields, body = respond_in_thread(self.websocket, path)
        self.send_response(status)
        for name, value in fields:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        if path == AFTER and not BROWSER_VERSIONS.wait(20):
            raise TimeoutError("the client did not speak")


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    configure_server(server)
    print(f"Running on http://127.0.0.1:{server.server_port}", flush=True)  # noqa: T201
    server.serve_forever()
