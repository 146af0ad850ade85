"""A Flask application with one route of this library and others of another library, which looks for
the upgrade in the environment as flask-sock does."""

from __future__ import annotations

from typing import Any

from flask import Flask, request, url_for

from websocket_handler import WSGIMiddleware

flask_app = Flask(__name__)


@flask_app.route("/theirs", websocket=True)
@flask_app.route("/both", websocket=True)
def theirs() -> Any:
    """The other library decides about its handshake: any response proves the route was found."""
    return f"theirs: {request.environ['HTTP_UPGRADE']}", 418


@flask_app.get("/both")
def both() -> Any:
    return "an ordinary request"


@flask_app.get("/ours/")
def ours() -> Any:
    ws, address = request.environ["wsgi.websocket"], url_for("ours", _external=True)
    ws.on("message", lambda _: ws.send(address))
    return ws.connect()


@flask_app.get("/plain")
def plain() -> Any:
    return "plain\n"


app = flask_app
flask_app.wsgi_app = WSGIMiddleware(flask_app.wsgi_app)  # type: ignore[method-assign]
