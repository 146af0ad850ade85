"""Applications whose WebSockets join a room of their process, for test_workers.py."""

from __future__ import annotations

import logging
from typing import Any

import flask
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from websocket_handler import ASGIMiddleware, Rooms, WebSocket, WSGIMiddleware

logging.basicConfig()
rooms = Rooms()


def join(websocket: WebSocket | None) -> Any:
    assert websocket is not None
    response = websocket.connect()
    rooms["room"].add(websocket)
    websocket.send("joined")
    return response


def asgi_route(request: Request) -> Response:
    return Response(join(WebSocket.of(request)))


application = flask.Flask(__name__)
application.add_url_rule("/", view_func=lambda: join(WebSocket.of(flask.request)))

wsgi = WSGIMiddleware(application.wsgi_app)
asgi = ASGIMiddleware(Starlette(routes=[Route("/", asgi_route)]))
