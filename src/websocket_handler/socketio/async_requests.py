"""The requests of an asynchronous server, before python-engineio handles them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from ..errors import WebSocketError
from ..servers.asgi import Receive, Scope, Send
from ..servers.asgi_middleware import ASGIMiddleware
from ..websocket import WebSocket
from .outbox import AsyncOutbox
from .polls import session_id

REQUESTS = {"asgi": "asgi.scope", "aiohttp": "aiohttp.request", "tornado": "tornado.handler"}
"""The key of the framework's request in the environ, by `async_mode`."""

SCHEMES: Mapping[str, Callable[[Any], str]] = {
    "asgi": lambda scope: str(scope.get("scheme", "http")),
    "aiohttp": lambda request: str(request.scheme),
    "tornado": lambda handler: str(handler.request.protocol),
}
"""The function that returns the scheme of the framework's request, by `async_mode`."""


class AsyncRequests:
    """Makes the environs of one server's requests."""

    def __init__(self, eio: Any) -> None:
        if eio.async_mode not in REQUESTS:
            raise ValueError(
                f"the server has async_mode={eio.async_mode!r}, which is not supported: create it "
                f"with one of {', '.join(REQUESTS)}"
            )
        self._eio = eio
        self._request_key = REQUESTS[eio.async_mode]
        self._scheme = SCHEMES[eio.async_mode]
        self._translate = eio._async["translate_request"]

    def websocket(self, environ: Mapping[str, Any]) -> WebSocket | None:
        """Return the WebSocket of a request; None if it asks for none."""
        return WebSocket.of(environ[self._request_key])

    async def translate(self, *request: Any) -> dict[str, Any]:
        """Return the environ of a request. A poll that comes after the ping timeout finds its
        session closed; the body of a POST waits for the client's handlers."""
        if self._eio.async_mode == "asgi":
            scope, receive, send = request
            request = (scope, limited(receive, self._eio.max_http_buffer_size), send)
        environ: dict[str, Any] = self._translate(*request)
        if inspect.isawaitable(environ):
            environ = await environ
        if not environ:  # the client has left
            return environ
        self._correct_scheme(environ)
        session = self._eio.sockets.get(session_id(environ))
        if session is None:
            return environ
        if environ["REQUEST_METHOD"] == "POST":
            environ["wsgi.input"] = WaitingBody(environ["wsgi.input"], session.queue)
        elif not session.closed:
            await session.check_ping_timeout()
        return environ

    def _correct_scheme(self, environ: dict[str, Any]) -> None:
        """Set the scheme of a request over TLS: python-engineio assumes `http`, and then refuses
        the origin of each browser."""
        if "HTTP_X_FORWARDED_PROTO" not in environ:
            is_secure = self._scheme(environ[self._request_key]) in ("https", "wss")
            environ["wsgi.url_scheme"] = "https" if is_secure else "http"


def limited(receive: Receive, limit: int) -> Receive:
    """Return a `receive` that ends the body of a request with the chunk that exceeds `limit` bytes.
    Old versions of python-engineio read all of a body before they check its length."""
    received = 0

    async def receive_limited() -> MutableMapping[str, Any]:
        nonlocal received
        message = await receive()
        if message["type"] == "http.request":
            received += len(message.get("body") or b"")
            if received > limit:
                return {**message, "more_body": False}
        return message

    return receive_limited


class WaitingBody:
    """The body of a POST. It is read once the client may send more events."""

    def __init__(self, body: Any, outbox: AsyncOutbox) -> None:
        self._body = body
        self._outbox = outbox

    async def read(self, length: int) -> bytes:
        """Return `length` bytes."""
        await self._outbox.wait_for_handlers()
        body: bytes = await self._body.read(length)
        self._outbox.count_received(len(body))
        return body


class InnerMiddleware(ASGIMiddleware):
    """Passes WebSocket requests to the server as HTTP requests, so that it may refuse them with
    any response. Under a Mount, other middleware may be around it: the server is the application.
    """

    async def _check_placement(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Accept every placement."""


def tornado_handler(server: Any) -> Any:
    """Return the request handler of a server for Tornado, in place of
    `socketio.get_tornado_handler(server)`."""
    from engineio.async_drivers.tornado import get_tornado_handler

    eio = getattr(server, "eio", server)
    if not getattr(eio, "is_served_by_websocket_handler", False):
        raise WebSocketError("call serve() for this server before")

    class Handler(get_tornado_handler(eio)):  # type: ignore[misc]
        async def get(self, *_: Any, **__: Any) -> None:
            await eio.handle_request(self)

    return Handler
