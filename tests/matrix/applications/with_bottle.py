"""bottle."""

from __future__ import annotations

import bottle
from werkzeug.middleware.proxy_fix import ProxyFix

from websocket_handler import WSGIMiddleware

from .bare_wsgi import Body
from .routes import REQUEST_ID, respond

bottles = bottle.Bottle()


@bottles.get("/<_:path>")  # type: ignore[untyped-decorator]
def handle(_: str) -> Body:
    path = bottle.request.path
    status, body = respond(bottle.request, path)
    if status == 401:
        bottle.abort(401)
    bottle.response.status = status
    bottle.response.set_header("X-Request-Id", REQUEST_ID)
    if path == "/logs-in":
        bottle.response.set_cookie("session", "alice", secret="for the tests")
    return Body(body.encode(), path == "/works-on")


@bottles.hook("after_request")  # type: ignore[untyped-decorator]
def after() -> None:
    if bottle.request.path == "/hook-raises":
        raise RuntimeError("as the test wants it")


app = WSGIMiddleware(ProxyFix(bottles))
