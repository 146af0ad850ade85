"""WebSockets as requests of the ordinary HTTP routes of an ASGI application."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from ..errors import WebSocketError
from ..handover.base import Handover
from ..protocol.handshake import Accepted
from ..protocol.request import http_scheme
from ..settings import Settings, with_options
from ..websocket import WebSocket
from .asgi import KEY, Application, Receive, Scope, Send, decoded
from .asgi_calls import Event
from .asgi_messages import run_over_asgi_messages
from .asgi_placement import check_placement
from .forwarded import in_scope

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..settings import SettingsOptions


class ASGIMiddleware:
    """Passes WebSocket requests to the ordinary HTTP routes of an ASGI application.

    The application gets an `http` scope instead of a `websocket` scope. `scope["websocket"]` is
    a `WebSocket`, or None for an ordinary request; `WebSocket.of(request)` returns it. A route
    may respond as to any request, or call `connect()` and return; the connection stays open.

    The response decides after `connect()`. A status below 400 accepts the WebSocket: cookies and
    most other headers are added to the 101, and the body is discarded. A status of 400 or more
    rejects it, and the client gets the response.

    Under a server without an integration, the WebSocket uses the messages of ASGI, with
    asyncio tasks for each connection. `settings` is a `Settings`;
    `options` are its fields by name. They override the
    settings of the server's integration.

    Wrap the whole application, as the last line: `app = ASGIMiddleware(app)`. Raises
    `WebSocketError` at every request, and at startup if possible, if other middleware of
    Starlette or FastAPI wraps it: WebSockets would bypass that middleware.
    """

    def __init__(
        self, app: Application, settings: Settings | None = None, **options: Unpack[SettingsOptions]
    ) -> None:
        self._application = app
        self._settings = with_options(settings, options)
        self._overrides = settings, options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "app" in scope:
            await self._check_placement(scope, receive, send)
        if scope["type"] != "websocket":
            scope.setdefault(KEY, None)
            await self._application(scope, receive, send)
        elif isinstance(scope.get(KEY), WebSocket):
            await self._request(scope, receive, send)
        else:
            await run_over_asgi_messages(self._request, scope, receive, send, self._settings)

    async def _check_placement(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            check_placement(self, scope)
        except WebSocketError as error:
            if scope["type"] == "lifespan":  # after a bare exception servers start without lifespan
                await receive()
                await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        websocket: WebSocket = scope[KEY]
        settings, options = self._overrides
        websocket._settings = with_options(settings or websocket._settings, options)
        await receive()  # websocket.connect
        assert websocket._handling is not None
        assert websocket._handling.handover is not None
        exchange = _Exchange(websocket._handling.handover, receive, send)
        inner = http_scope(scope)
        websocket._follow(partial(in_scope, inner))
        try:
            await self._application(inner, exchange.receive, exchange.send)
        finally:
            exchange.over.set()


class _Exchange:
    """Translates between the messages of an `http` scope and of a `websocket` scope."""

    def __init__(self, handover: Handover, receive: Receive, send: Send) -> None:
        self.over = asyncio.Event()
        self._handover = handover
        self._receive = receive
        self._send = send
        self._request_received = False
        self._is_declined = self._is_body_wanted = False

    async def receive(self) -> Event:
        if not self._request_received:
            self._request_received = True
            return {"type": "http.request", "body": b"", "more_body": False}
        websocket = self._handover.websocket
        if websocket._outcome is None:
            await self._wait_for_disconnect()
        if isinstance(websocket._outcome, Accepted):
            await self.over.wait()
        return {"type": "http.disconnect"}

    async def _wait_for_disconnect(self) -> None:
        """Wait until the client disconnects or the application returns."""
        waiting = [asyncio.ensure_future(call) for call in (self._receive(), self.over.wait())]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for future in waiting:
                future.cancel()

    async def send(self, message: Event) -> None:
        if not self._handover.is_detached and message["type"] == "http.response.start":
            self._is_declined = True
            self._handover.decline(message["status"])
        if self._is_declined:
            await self._send({**message, "type": f"websocket.{message['type']}"})
        elif message["type"] == "http.response.start":
            fields = decoded(message.get("headers", ()))
            self._is_body_wanted = self._handover.begin_response(message["status"], fields)
        elif message["type"] == "http.response.body" and self._is_body_wanted:
            self._is_body_wanted = message.get("more_body", False)
            self._handover.write(message.get("body", b""), not self._is_body_wanted)


def http_scope(scope: Scope) -> Scope:
    """Return the `http` scope of the request that a `websocket` scope stands for."""
    without = ("type", "scheme", "subprotocols", "extensions")
    return {
        **{name: value for name, value in scope.items() if name not in without},
        "type": "http",
        "method": "GET",
        "scheme": http_scheme(scope.get("scheme")),
    }
