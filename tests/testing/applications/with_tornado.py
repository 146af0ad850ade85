"""Tornado, with a signed cookie for the user."""

from __future__ import annotations

from tornado.web import Application, RequestHandler

from websocket_handler import Rooms, WebSocket

from . import chat

room = Rooms()["chat"]


class Login(RequestHandler):
    def post(self) -> None:
        self.set_signed_cookie("user", self.get_body_argument("user"))
        self.write("welcome")


class Chat(RequestHandler):
    def get(self) -> None:
        ws = WebSocket.of(self)
        user = self.get_signed_cookie("user")
        if ws is None:
            self.write("plain")
        elif self.request.path == "/greeting" and user is None:
            self.set_status(403)
            self.write("log in first")
        else:
            chat.open_websocket(ws, self.request.path, user.decode() if user else None, room)


def make_app() -> Application:
    return Application([("/login", Login), ("/.*", Chat)], cookie_secret="for the tests")
