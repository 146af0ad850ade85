"""The application in Flask, with Flask-SocketIO. `python -m` runs it on a server of one process."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from flask import Flask, request
from flask_socketio import SocketIO

from websocket_handler import WSGIMiddleware

from .application import Journal, options, serve_if_asked, state_of, with_handlers

app = Flask(__name__)
app.config["SECRET_KEY"] = "for the tests"
sio = SocketIO(app, **{"async_mode": "threading", **options()})
serve_if_asked(sio)
app.wsgi_app = WSGIMiddleware(app.wsgi_app)  # type: ignore[method-assign]

journal: Journal = []
with_handlers(sio.server, journal)


@app.get("/state")
def state() -> dict[str, Any]:
    return state_of(sio.server, journal)


@app.get("/emit")
def emit() -> list[float]:
    """Emit a text. Returns the seconds of the call of `emit`."""
    text = request.args["text"] * int(request.args.get("times", "1"))
    begin = time.perf_counter()
    sio.emit("news", text, to=request.args.get("room"))
    return [time.perf_counter() - begin]


@app.get("/allow")
def allow() -> list[str]:
    """Change the allowed origins, to the JSON in the query."""
    sio.server.eio.cors_allowed_origins = json.loads(request.args["origins"])
    return ["changed"]


if __name__ == "__main__":
    server, port = sys.argv[1], int(sys.argv[2])
    if server == "werkzeug":
        sio.run(app, port=port, allow_unsafe_werkzeug=True)
    else:
        from wsgiref.simple_server import make_server

        make_server("127.0.0.1", port, app).serve_forever()
