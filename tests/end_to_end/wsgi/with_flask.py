"""The application in Flask."""

from __future__ import annotations

import threading
from typing import Any

from flask import Flask, request

from websocket_handler import WSGIMiddleware

from .. import misuse

flask_app = Flask(__name__)


@flask_app.get("/echo")
def echo() -> Any:
    ws = request.environ["wsgi.websocket"]
    if ws is None:
        return "We only speak WebSockets here", 426
    ws.on("message", ws.send)
    return ws.connect(max_message_size=1 << 24)


@flask_app.get("/without-pings")
def without_pings() -> Any:
    ws = request.environ["wsgi.websocket"]
    ws.on("message", ws.send)
    return ws.connect(ping_interval=None)


@flask_app.get("/misuse/<kind>")
def misused(kind: str) -> Any:
    result = misuse.connect(request.environ["wsgi.websocket"], kind)
    return {"forgets": None, "body": "nobody sees this"}.get(kind, result)


@flask_app.get("/forbidden")
def forbidden() -> Any:
    return "not you\n", 403


@flask_app.get("/plain")
def plain() -> Any:
    return "plain\n"


@flask_app.get("/threads")
def threads() -> Any:
    return str(threading.active_count())


app = flask_app
flask_app.wsgi_app = WSGIMiddleware(flask_app.wsgi_app, compression=True)  # type: ignore[method-assign]
