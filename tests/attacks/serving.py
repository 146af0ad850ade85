"""An echo server on http.server with default settings and compression, for the scorecard."""

from __future__ import annotations

import contextlib
import signal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import websocket_handler


class Handler(BaseHTTPRequestHandler):
    websocket: websocket_handler.WebSocket

    def do_GET(self) -> None:
        self.websocket.on("message", self.websocket.send)
        self.websocket.connect()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


class Server(ThreadingHTTPServer):
    request_queue_size = 1024


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    server = Server(("127.0.0.1", 0), Handler)
    websocket_handler.configure_server(server, compression=True)
    print(f"ready on port {server.server_port}", flush=True)  # noqa: T201
    with server, contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()
