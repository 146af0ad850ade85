"""Applications whose listeners raise, for tests of the server's log."""

from __future__ import annotations

from typing import Any

import websocket_handler


async def application(scope: Any, *_: object) -> None:
    if scope["type"] == "http":
        ws = scope["websocket"]
        ws.on("message", fail)
        ws.connect()


def wsgi_application(environ: Any, start_response: Any) -> list[bytes]:
    ws = environ["wsgi.websocket"]
    ws.on("message", fail)
    start_response("200 OK", [])
    return [ws.connect().encode()]


def fail(_: object) -> None:
    raise ZeroDivisionError("as the test wants it")


asgi = websocket_handler.ASGIMiddleware(application)
wsgi = websocket_handler.WSGIMiddleware(wsgi_application)
