"""FastAPI, with the sessions of Starlette."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Form, Request, Response
from starlette.middleware.sessions import SessionMiddleware

from websocket_handler import ASGIMiddleware, Rooms, WebSocket

from . import chat


def make_app() -> ASGIMiddleware:
    app = FastAPI()
    app.add_middleware(SessionMiddleware, secret_key="for the tests")
    room = Rooms()["chat"]

    @app.post("/login")
    def login(request: Request, user: Annotated[str, Form()]) -> str:
        request.session["user"] = user
        return "welcome"

    @app.get("/{_:path}")
    async def websocket(request: Request) -> Any:
        ws = WebSocket.of(request)
        if ws is None:
            return Response("plain")
        user = request.session.get("user")
        if request.url.path == "/greeting" and user is None:
            return Response("log in first", status_code=403)
        chat.open_websocket(ws, request.url.path, user, room)
        return Response()

    return ASGIMiddleware(app)
