"""WebSockets as requests of the ordinary HTTP routes of an ASGI application."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import Any

from ..settings import Settings
from ..websocket import WebSocket
from .asgi import KEY, Application, Event, Receive, Scope, Send
from .asgi_messages import converse
from .forwarded import in_scope


class ASGIMiddleware:
    """Lets ordinary HTTP routes of an ASGI application find WebSockets among their requests.

    The application gets a `http` scope instead of a `websocket` one, with
    `scope["websocket"]`: a `WebSocket`, or None for ordinary requests. It may answer like
    any request, or call `connect()`; what it responds after that is discarded, and it may
    return while the WebSocket goes on. Under a server that keeps the connection to itself,
    the WebSocket lives as long as the server's, over ASGI's messages. `settings` are those of
    `Settings`; they override those of the server's integration.
    """

    def __init__(self, app: Application, **settings: Any) -> None:
        self._application = app
        self._settings = Settings(**settings)
        self._overrides = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            if scope["type"] == "http":
                scope.setdefault(KEY, None)
            await self._application(scope, receive, send)
        elif isinstance(scope.get(KEY), WebSocket):
            await self._request(scope, receive, send)
        else:
            await converse(self._request, scope, receive, send, self._settings)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        websocket: WebSocket = scope[KEY]
        websocket._settings = replace(websocket._settings, **self._overrides)
        await receive()  # websocket.connect
        exchange = _Exchange(websocket, send)
        inner = http_scope(scope)
        websocket._follow(partial(in_scope, inner))
        try:
            await self._application(inner, exchange.receive, exchange.send)
        finally:
            exchange.over.set()


class _Exchange:
    """The request and response of an ordinary route, in terms of a `websocket` scope."""

    def __init__(self, websocket: WebSocket, send: Send) -> None:
        self.over = asyncio.Event()
        self._websocket = websocket
        self._send = send
        self._request_received = False
        self._is_responding = False

    async def receive(self) -> Event:
        if not self._request_received:
            self._request_received = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.over.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Event) -> None:
        if self._websocket.outcome is None:
            self._is_responding = True
        if self._is_responding:  # or it comes after `connect()`
            await self._send({**message, "type": f"websocket.{message['type']}"})


def http_scope(scope: Scope) -> Scope:
    """The scope of the ordinary request that a `websocket` scope came as."""
    without = ("type", "scheme", "subprotocols", "extensions")
    return {
        **{name: value for name, value in scope.items() if name not in without},
        "type": "http",
        "method": "GET",
        "scheme": {"ws": "http", "wss": "https"}.get(scope.get("scheme", "ws"), "http"),
    }
