"""The handlers of the application, independent of the server."""

from __future__ import annotations

import json
from typing import NamedTuple

from websocket_handler import Engine, WebSocket

JOURNAL: list[list[object]] = []
AFTER = "/works-on"
"""The path of a handler that continues after its response until the client has sent a message."""


class Response(NamedTuple):
    status: int
    fields: list[tuple[str, str]]
    body: bytes


def page(engine: Engine) -> Response:
    """The response to an ordinary request: the journal."""
    body = json.dumps({"open": engine.stats().open, "journal": JOURNAL}).encode()
    return Response(200, [("Content-Length", str(len(body)))], body)


def respond(ws: WebSocket, path: str) -> Response:
    """The response of the handler of `path`, except for `/late`, which has to wait first."""
    ws.on("close", lambda code, _: JOURNAL.append(["close", path, code]))
    ws.on("message", ws.send)
    if path == "/forgets":
        return Response(200, [("Content-Length", "0")], b"")
    ws.response_headers["X-Own"] = "its own"
    ws.connect(max_connections=100)
    ws.send("first")
    if path == "/raises":
        raise RuntimeError("as the test wants it")
    if path == "/denies":
        body = b"not you\n" * 1000
        fields = [("Content-Type", "text/x-reason"), ("Content-Length", str(len(body)))]
        return Response(403, [*fields, ("Set-Cookie", "denied=1")], body)
    fields = [
        ("Set-Cookie", "a=1; Path=/"),
        ("Set-Cookie", "b=2"),
        ("X-Request-Id", "seven"),
        ("X-Own", "not this"),
        ("Content-Type", "text/x-nobody"),
        ("Content-Length", "6"),
        ("Cache-Control", "no-store"),
    ]
    return Response(200, fields, b"unseen")
