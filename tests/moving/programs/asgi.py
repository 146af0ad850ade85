"""An ASGI application: a `websocket` route at /route, ordinary routes elsewhere."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from websocket_handler import ASGIMiddleware, WebSocket

from . import mode

mode.start()

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


async def page(scope: Scope, receive: Receive, send: Send) -> None:
    del receive
    ws = WebSocket.of(scope)
    status, body = 200, str(os.getpid()).encode()
    if ws is not None:

        @ws.on("message")
        async def echo(message: str | bytes) -> None:
            ws.send(mode.answer(ws, message))

        ws.connect()
    fields = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def route(scope: Scope, receive: Receive, send: Send) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    resumed = "websocket.resumed" in scope["extensions"]
    while (event := await receive())["type"] == "websocket.receive":
        message = event.get("text") or event.get("bytes")
        await send({"type": "websocket.send", "text": f"{os.getpid()} {resumed} 0 {message}"})


middleware = ASGIMiddleware(page)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        while True:
            event = (await receive())["type"]
            await send({"type": f"{event}.complete"})
            if event == "lifespan.shutdown":
                return
    elif scope.get("path") == "/route":
        await route(scope, receive, send)
    else:
        await middleware(scope, receive, send)
