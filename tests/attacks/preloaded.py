"""A WSGI application that starts the engine on import, in gunicorn's master: `--preload`."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from typing import Any

from websocket_handler import WebSocket, WSGIMiddleware, default_engine

from ..support.connections import connect, make_websocket

of_the_master = make_websocket(default_engine())
of_the_master.on("message", of_the_master.send)
peer = connect(of_the_master)
assert any(thread.name.startswith("websocket-engine") for thread in threading.enumerate())


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    ws: WebSocket = environ["wsgi.websocket"]
    ws.on("message", lambda message: ws.send(str(os.getpid()) if message == "pid" else message))
    ws.connect()
    start_response("101 Switching Protocols", [])
    return []


app = WSGIMiddleware(application)
