"""Handlers of every framework that call `WebSocket.of`, inside the framework's proxy middleware.
Run with the name of a framework, it serves aiohttp, Tornado or http.server."""

from __future__ import annotations

import asyncio
import json
import sys
from contextvars import ContextVar
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import bottle
from aiohttp import web
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path
from fastapi import FastAPI
from fastapi import Request as FastAPIRequest
from fastapi import WebSocket as FastAPIWebSocket
from flask import Flask
from flask import request as flask_request
from hypercorn.middleware import ProxyFixMiddleware
from starlette.applications import Starlette
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response
from starlette.routing import Route
from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler
from werkzeug.middleware.proxy_fix import ProxyFix

from websocket_handler import ASGIMiddleware, WebSocket, WSGIMiddleware, configure_server

from ..support.ports import free_port

user: ContextVar[str] = ContextVar("user", default="nobody")


def connect_websocket(request: Any) -> Any:
    """Connect the WebSocket of a request and send it the client's details. Returns the value of
    `connect()`, None if there is no WebSocket."""
    ws = WebSocket.of(request)
    if ws is None:
        return None
    assert WebSocket.of(request) is ws
    address, scheme, host = ws.request.remote_address, ws.request.scheme, ws.request.headers["Host"]
    assert isinstance(address, tuple)
    ws.on("open", lambda: ws.send(json.dumps([address[0], scheme, host])))
    user.set("that of a request")
    ws.on("message", lambda _: ws.send(user.get()))
    return ws.connect(max_connections_per_address=1)


def connected(request: Any) -> bool:
    """Returns whether the request had a WebSocket."""
    return connect_websocket(request) is not None


# WSGI


def bare(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    body = b"connected" if connected(environ) else b"plain"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body]


wsgi = WSGIMiddleware(ProxyFix(bare, x_host=1))

flask_app = Flask(__name__)


@flask_app.get("/")
def in_flask() -> str:
    return "connected" if connected(flask_request) else "plain"


flask = WSGIMiddleware(ProxyFix(flask_app.wsgi_app, x_host=1))

bottle_app = bottle.Bottle()


@bottle_app.get("/")  # type: ignore[untyped-decorator]
def in_bottle() -> str:
    return "connected" if connected(bottle.request) else "plain"


in_bottles = WSGIMiddleware(ProxyFix(bottle_app, x_host=1))

settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    SECRET_KEY="for the tests",
    SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"),
    USE_X_FORWARDED_HOST=True,
)


def in_django(request: HttpRequest) -> HttpResponse:
    return HttpResponse("connected" if connected(request) else "plain")


urlpatterns = [path("", in_django)]
django = WSGIMiddleware(get_wsgi_application())

# ASGI

behind_proxy: Any = ProxyFixMiddleware  # it passes the application a copy of the scope

django_asgi = ASGIMiddleware(get_asgi_application())


async def in_starlette(request: StarletteRequest) -> Response:
    return Response("connected" if connected(request) else "plain")


in_starlettes: Any = Starlette(routes=[Route("/", in_starlette)])
starlette = ASGIMiddleware(behind_proxy(in_starlettes))

fastapi_app = FastAPI()


@fastapi_app.get("/")
def in_fastapi(request: FastAPIRequest) -> Response:
    return Response("connected" if connected(request) else "plain")


fastapi = ASGIMiddleware(behind_proxy(fastapi_app))

fastapi_routes = FastAPI()


@fastapi_routes.get("/")
def plain() -> Response:
    return Response("plain")


@fastapi_routes.websocket("/")
async def websocket_in_fastapi(websocket: FastAPIWebSocket) -> None:
    ws = WebSocket.of(websocket)
    assert ws is not None
    address = ws.request.remote_address
    assert isinstance(address, tuple)
    await websocket.accept()
    await websocket.send_json([address[0], ws.request.scheme, ws.request.headers["Host"]])
    await websocket.receive_text()


async def bare_asgi(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    await receive()
    body = b"connected" if connected(scope) else b"plain"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


asgi = ASGIMiddleware(behind_proxy(bare_asgi))

# Frameworks with their own servers


@web.middleware
async def believe_proxy(request: web.Request, handler: Any) -> web.StreamResponse:
    fields = request.headers
    if "X-Forwarded-For" in fields:
        request = request.clone(
            remote=fields["X-Forwarded-For"],
            scheme=fields["X-Forwarded-Proto"],
            host=fields["X-Forwarded-Host"],
        )
    response: web.StreamResponse = await handler(request)
    return response


async def in_aiohttp(request: web.Request) -> web.StreamResponse:
    response: web.StreamResponse | None = connect_websocket(request)
    return response or web.Response(text="plain")


class InTornado(RequestHandler):
    def get(self) -> None:
        if WebSocket.of(self) is None:
            self.write("plain")
        else:
            connect_websocket(self)


class InHttpServer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if not connected(self):
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"plain")


def serve_aiohttp(port: int) -> None:
    app = web.Application(middlewares=[believe_proxy])
    app.router.add_get("/", in_aiohttp)
    web.run_app(app, host="127.0.0.1", port=port)


def serve_tornado(port: int) -> None:
    async def serve() -> None:
        server = HTTPServer(Application([("/", InTornado)]), xheaders=True)
        server.listen(port, "127.0.0.1")
        print(f"Running on http://127.0.0.1:{port}", flush=True)  # noqa: T201
        await asyncio.Event().wait()

    asyncio.run(serve())


def serve_http_server(port: int) -> None:
    server = configure_server(ThreadingHTTPServer(("127.0.0.1", port), InHttpServer))
    print(f"Running on http://127.0.0.1:{port}", flush=True)  # noqa: T201
    server.serve_forever()


if __name__ == "__main__":
    globals()[f"serve_{sys.argv[1]}"](free_port())
