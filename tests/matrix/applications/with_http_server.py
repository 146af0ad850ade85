"""http.server, on the port that is its argument."""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from websocket_handler import configure_server

from .routes import REQUEST_ID, respond, wait_for_client


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        status, body = respond(self, self.path)
        if status == 401:
            self.send_error(401)
            return
        self.send_response(status)
        self.send_header("X-Request-Id", REQUEST_ID)
        self.send_header("Content-Length", str(len(body)))
        if self.path == "/logs-in":
            self.send_header("Set-Cookie", "session=alice")
        self.end_headers()
        self.wfile.write(body.encode())
        if self.path == "/works-on":
            wait_for_client()


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    configure_server(server)
    print(f"Running on http://127.0.0.1:{server.server_port}", flush=True)  # noqa: T201
    server.serve_forever()
