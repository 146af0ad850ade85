"""Flask."""

from __future__ import annotations

from typing import Any

from flask import Flask, request, session

from websocket_handler import Rooms, WebSocket, WSGIMiddleware

from . import chat


def make_app() -> Flask:
    app = Flask(__name__)
    app.secret_key = "for the tests"
    app.wsgi_app = WSGIMiddleware(app.wsgi_app)  # type: ignore[method-assign]
    room = Rooms()["chat"]

    @app.post("/login")
    def login() -> str:
        session["user"] = request.form["user"]
        return "welcome"

    @app.get("/<path:_>")
    def websocket(_: str) -> Any:
        ws = WebSocket.of(request)
        if ws is None:
            return "plain"
        if request.path == "/greeting" and "user" not in session:
            return "log in first", 403
        return chat.open_websocket(ws, request.path, session.get("user"), room)

    return app
