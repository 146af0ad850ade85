"""The standard library's http.server: http://localhost:8000/

pip install websocket-handler
"""

import secrets
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from websocket_handler import WebSocket, configure_server

sessions = set()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/echo":
            self.echo()
        else:
            self.answer(200, Path(__file__).with_name("echo.html").read_text())

    def do_POST(self):
        session = secrets.token_hex()
        sessions.add(session)
        self.answer(200, "welcome\n", session)

    def echo(self):
        ws = WebSocket.of(self)
        if ws is None:
            self.answer(426, "We only speak WebSockets here\n")
        elif ws.request.cookies.get("session") not in sessions:
            self.answer(401, "Log in first\n")
        else:
            ws.on("message", ws.send)
            ws.connect()

    def answer(self, status, body, session=None):
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body.encode())))
        if session is not None:
            self.send_header("Set-Cookie", f"session={session}; HttpOnly")
        self.end_headers()
        self.wfile.write(body.encode())


if __name__ == "__main__":
    server = ThreadingHTTPServer(("localhost", 8000), Handler)
    configure_server(server).serve_forever()
