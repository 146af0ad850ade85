"""http.server, with a cookie for the user."""

from __future__ import annotations

from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs

from websocket_handler import Rooms, WebSocket

from . import chat

room = Rooms()["chat"]


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.respond(200, "welcome", {"Set-Cookie": f"user={form['user'][0]}"})

    def do_GET(self) -> None:
        ws = WebSocket.of(self)
        user = SimpleCookie(self.headers.get("Cookie", "")).get("user")
        if ws is None:
            self.respond(200, "plain")
        elif self.path == "/greeting" and user is None:
            self.respond(403, "log in first")
        else:
            chat.open_websocket(ws, self.path, user.value if user else None, room)

    def respond(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(text))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


def make_app() -> type[Handler]:
    return Handler
