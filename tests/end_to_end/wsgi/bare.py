"""A WSGI application without a framework, and with all the misuses."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterable
from typing import Any

from websocket_handler import ALL_VERSIONS, WebSocket, WSGIMiddleware

JOURNAL: list[list[object]] = []


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    ws: WebSocket | None = environ["wsgi.websocket"]
    if path == "/journal":
        return answer(start_response, "200 OK", json.dumps(JOURNAL).encode())
    if path == "/threads":
        return answer(start_response, "200 OK", str(threading.active_count()).encode())
    if path == "/pid":
        return answer(start_response, "200 OK", str(os.getpid()).encode())
    if path == "/forbidden":
        return answer(start_response, "403 Forbidden", b"not you\n")
    if ws is None or path == "/plain":
        return answer(start_response, "200 OK", b"plain\n")
    JOURNAL.append(["request", path, ws.request.target])
    ws.on("message", ws.send)
    ws.on("close", lambda code, reason: JOURNAL.append(["close", code, reason]))
    if path == "/generator":
        return generator(ws)
    if path == "/receive":
        ws.off("message", ws.send)
        ws.connect()
        for message in ws:
            ws.send(message)
        return answer(start_response, "200 OK", b"")
    ws.connect(max_message_size=1 << 24)
    if path == "/greet":
        ws.send("hello")
    if path == "/twice":
        with contextlib.suppress(Exception):
            ws.connect()
    if path == "/raises":
        raise RuntimeError("as the test wants it")
    if path == "/body":
        return Closing(answer(start_response, "200 OK", b"nobody sees this"))
    if path == "/nothing":
        return []
    return answer(start_response, "101 Switching Protocols", b"")


def answer(start_response: Any, status: str, body: bytes) -> list[bytes]:
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def generator(ws: WebSocket) -> Iterable[bytes]:
    """Connects only when the server asks for the body."""
    ws.connect()
    yield b"nobody sees this"


class Closing:
    def __init__(self, body: list[bytes]) -> None:
        self._body = body

    def __iter__(self) -> Any:
        return iter(self._body)

    def close(self) -> None:
        JOURNAL.append(["teardown"])


app = WSGIMiddleware(application, versions=ALL_VERSIONS)
