"""Flask."""

from __future__ import annotations

from flask import Flask, Response, abort, request, session
from werkzeug.middleware.proxy_fix import ProxyFix

from websocket_handler import WSGIMiddleware

from .routes import REQUEST_ID, respond, wait_for_client

flask = Flask(__name__)
flask.secret_key = "for the tests"


@flask.get("/<path:_>")
def handle(_: str) -> Response:
    status, body = respond(request, request.path)
    if status == 401:
        abort(401)
    if request.path == "/logs-in":
        session["user"] = "alice"
    response = Response(body, status, {"X-Request-Id": REQUEST_ID})
    if request.path == "/works-on":
        response.call_on_close(wait_for_client)
    return response


@flask.after_request
def after(response: Response) -> Response:
    if request.path == "/hook-raises":
        raise RuntimeError("as the test wants it")
    return response


app = WSGIMiddleware(ProxyFix(flask.wsgi_app))
