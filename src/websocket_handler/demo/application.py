"""The demo's web application: pages, an access log and an echo endpoint.

It is an ordinary `BaseHTTPRequestHandler`, and the WebSocket is one of its routes.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit

from .. import ALL_VERSIONS, WebSocket, configure_server
from .feed import StatsFeed

MIB = 1 << 20

# Large enough for the page's largest message and its echo; all versions are accepted.
SETTINGS: dict[str, Any] = {
    "max_message_size": 64 * MIB,
    "max_buffered": 128 * MIB,
    "versions": ALL_VERSIONS,
    "compression": True,
}

FEED = StatsFeed()

SCRIPT = "text/javascript; charset=utf-8"
SCRIPTS = ("chart.js", "close-codes.js", "echotest.js", "retry.js", "stats.js")

STATIC_FILES = {
    "/echotest.html": ("echotest.html", "text/html; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    **{f"/{name}": (name, SCRIPT) for name in SCRIPTS},
    "/favicon.svg": ("favicon.svg", "image/svg+xml"),
    "/favicon.ico": ("favicon.svg", "image/svg+xml"),
}


class DemoHandler(BaseHTTPRequestHandler):
    """The routes of the demo."""

    server_version = "websocket-handler-demo"
    websocket: WebSocket | None  # set by `configure_server`
    timeout = 10  # seconds for a request to arrive: an incomplete one releases its thread

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.routes.get(path, DemoHandler.static_file)(self)

    def do_HEAD(self) -> None:
        self.do_GET()

    def index(self) -> None:
        self.send_response(HTTPStatus.FOUND)
        self.send_header("Location", "/echotest.html")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def echo(self) -> None:
        ws = self.websocket
        if ws is None:
            self.answer(
                HTTPStatus.UPGRADE_REQUIRED,
                b"We only speak WebSockets here\n",
                Upgrade="websocket",
                Connection="close",
            )
            return
        ws.response_headers["Set-Cookie"] = version_cookie(ws)  # read by the page's script
        ws.on("open", partial(announce, ws))
        ws.on("message", ws.send)
        ws.connect(next(iter(ws.subprotocols), None))

    def stats(self) -> None:
        """Serve the statistics page, or the WebSocket that updates it: both have one URL."""
        if self.websocket is None:
            self.send_file("stats.html", "text/html; charset=utf-8")
        else:
            FEED.add(self.websocket)
            self.websocket.connect()

    def static_file(self) -> None:
        name, content_type = STATIC_FILES.get(urlsplit(self.path).path, (None, ""))
        if name is None:
            self.send_error(HTTPStatus.NOT_FOUND)
        else:
            self.send_file(name, content_type)

    def send_file(self, name: str, content_type: str) -> None:
        body = (files(__package__) / "static" / name).read_bytes()
        self.answer(HTTPStatus.OK, body, content_type, Cache_Control="no-cache")

    def answer(
        self,
        status: HTTPStatus,
        body: bytes,
        content_type: str = "text/plain; charset=utf-8",
        **headers: str,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    routes: ClassVar[dict[str, Callable[[DemoHandler], None]]] = {
        "/": index,
        "/echoserver": echo,
        "/stats": stats,
    }


def version_cookie(ws: WebSocket) -> str:
    return f"websocket-version={quote(str(ws.version))}; Path=/; Max-Age=60; SameSite=Strict"


def announce(ws: WebSocket) -> None:
    logging.info("%r uses %s", ws, ", ".join(filter(None, [str(ws.version), ws.extensions])))


class DemoServer(ThreadingHTTPServer):
    """A server with a thread per request; a connected WebSocket needs no thread."""

    request_queue_size = 1024
    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        if ":" in host:
            self.address_family: int = socket.AF_INET6
        super().__init__((host, port), DemoHandler)


def make_server(host: str, port: int) -> DemoServer:
    """Return the demo's server, which is bound and ready to serve.

    Raises `OSError` if it cannot listen on the address.
    """
    return configure_server(DemoServer(host, port), **SETTINGS)
