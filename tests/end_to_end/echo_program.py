"""An application on the standard library's HTTP servers, as a user would write it.

`--runs-in` selects where its engine runs, `--application` its server and handler:

    routes    ThreadingHTTPServer with all of `routes`, HTTP/1.1
    http10    the same with HTTP/1.0
    single    the same on HTTPServer, which has one thread for all requests
    files     SimpleHTTPRequestHandler with `directory=` by functools.partial, and /echo
    sending   /, which sends the requested messages: see `sending_messages`
    wsgi      wsgiref, one thread, with /echo, /ignored, /forbidden and /raises-after-connect
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import logging
import signal
import ssl
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from http.server import (
    BaseHTTPRequestHandler,
    HTTPServer,
    SimpleHTTPRequestHandler,
    ThreadingHTTPServer,
)
from pathlib import Path
from typing import Any
from wsgiref.simple_server import make_server

import websocket_handler

from . import routes  # noqa: F401 (fills the tables of the handler)
from .handler import Handler

MIB = 1 << 20
LIMITS: dict[str, Any] = {"max_message_size": 64 * MIB, "max_buffered": 128 * MIB}


class Http10Handler(Handler):
    protocol_version = "HTTP/1.0"


class FilesHandler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    websocket: websocket_handler.WebSocket | None

    def do_GET(self) -> None:
        ws = self.websocket
        if ws is None:
            super().do_GET()
        else:
            ws.on("message", ws.send)
            ws.connect()


def sending_messages(order: str) -> list[str]:
    """Sends as many messages of such a size as the path says, such as "40 30000"."""
    count, size = map(int, order.split())
    return [str(number % 10) * size for number in range(count)]


class SendingHandler(BaseHTTPRequestHandler):
    websocket: websocket_handler.WebSocket

    def do_GET(self) -> None:
        ws = self.websocket

        @ws.on("message")
        def send(order: str) -> None:
            for message in sending_messages(order):
                ws.send(message)

        ws.connect()


def wsgi_application(
    environ: dict[str, Any], start_response: Callable[..., Any]
) -> Iterable[bytes]:
    ws = environ["wsgi.websocket"]
    path = environ["PATH_INFO"]
    if path == "/forbidden":
        start_response("403 Forbidden", [("Content-Type", "text/plain"), ("Content-Length", "3")])
        return [b"no\n"]
    if ws is None or path == "/ignored":
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "6")])
        return [b"plain\n"]
    ws.on("message", ws.send)
    ws.connect()
    if path == "/raises-after-connect":
        raise RuntimeError("the application's own fault")
    start_response("101 Switching Protocols", [])
    return [b"nobody sees this"]


class Threads(ThreadingHTTPServer):
    request_queue_size = 1024

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report errors, except for a client that resets while the standard library reads."""
        error = sys.exc_info()[1]
        frames = traceback.extract_tb(error.__traceback__ if error else None)
        if isinstance(error, ConnectionResetError) and frames[-1].filename == ssl.__file__:
            return
        super().handle_error(request, client_address)


def make(application: str) -> HTTPServer:
    address = ("127.0.0.1", 0)
    if application == "wsgi":
        return make_server(*address, wsgi_application)
    if application == "sending":
        return Threads(address, SendingHandler)
    if application == "files":
        return Threads(address, functools.partial(FilesHandler, directory=Path(__file__).parent))
    if application == "single":
        return HTTPServer(address, Handler)
    return Threads(address, Http10Handler if application == "http10" else Handler)


def announce(server: HTTPServer) -> None:
    print(f"ready on port {server.server_port}")  # noqa: T201


def serve_beside_thread(server: HTTPServer, settings: dict[str, Any]) -> None:
    websocket_handler.configure_server(server, **settings)
    announce(server)
    with server, contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


async def serve_in_loop(server: HTTPServer, settings: dict[str, Any]) -> None:
    """The HTTP server runs in a thread; the engine runs in this loop."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    engine = websocket_handler.Engine(loop)
    websocket_handler.configure_server(server, engine=engine, **settings)
    threading.Thread(target=server.serve_forever).start()
    announce(server)
    await stop.wait()
    await asyncio.to_thread(server.shutdown)
    await asyncio.to_thread(server.server_close)
    engine.stop()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs-in", choices=["thread", "asyncio", "uvloop"], default="thread")
    parser.add_argument("--application", default="routes")
    parser.add_argument(
        "--defaults", action="store_true", help="the limits of Settings; and every version"
    )
    parser.add_argument("--open-timeout", type=float, default=10.0)
    parser.add_argument("--close-timeout", type=float, default=10.0)
    parser.add_argument("--certificate", help="a PEM file with key and certificate, for https")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    server = make(options.application)
    if options.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    settings = {"versions": websocket_handler.ALL_VERSIONS} if options.defaults else LIMITS
    settings = {
        **settings,
        "open_timeout": options.open_timeout,
        "close_timeout": options.close_timeout,
    }
    if options.runs_in == "thread":
        serve_beside_thread(server, settings)
    elif options.runs_in == "asyncio":
        asyncio.run(serve_in_loop(server, settings))
    else:
        import uvloop

        uvloop.run(serve_in_loop(server, settings))


if __name__ == "__main__":
    main()
