"""aiohttp, with a cookie for the user."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from websocket_handler import Rooms, WebSocket

from . import chat


def make_app() -> web.Application:
    room = Rooms()["chat"]

    async def login(request: web.Request) -> web.Response:
        response = web.Response(text="welcome")
        response.set_cookie("user", str((await request.post())["user"]))
        return response

    async def websocket(request: web.Request) -> Any:
        ws = WebSocket.of(request)
        if ws is None:
            return web.Response(text="plain")
        user = request.cookies.get("user")
        if request.path == "/greeting" and user is None:
            return web.Response(text="log in first", status=403)
        return chat.open_websocket(ws, request.path, user, room)

    app = web.Application()
    app.add_routes([web.post("/login", login), web.get("/{_:.*}", websocket)])
    return app
