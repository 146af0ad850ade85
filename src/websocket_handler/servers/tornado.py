"""Tornado: `WebSocket.of(self)` in any request handler, which calls `websocket` here.

    class Echo(RequestHandler):
        def get(self):
            ws = WebSocket.of(self)          # None for an ordinary request
            ...
            ws.connect()

The WebSocket lives in the server's own loop. Where the server is stopped, `await close_all()`
closes the WebSockets: Tornado has no event for that.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from functools import partial
from typing import Any

from tornado.httputil import HTTPServerRequest
from tornado.web import RequestHandler

from .. import engine
from ..engine import IS_NATIVE, loop_engine
from ..errors import WebSocketError
from ..protocol.check import GOING_AWAY
from ..protocol.request import Forwarded, Headers, Request, address_of, is_websocket_request
from ..settings import Settings
from ..websocket import WebSocket
from .handover import duplicate
from .inert_socket import InertTlsSocket
from .transports import LoopHandOver

ATTRIBUTE = "_websocket_handler_websocket"
"""Where Tornado's request has its WebSocket, so that there is but one."""


def websocket(handler: RequestHandler, **settings: Any) -> WebSocket | None:
    """The WebSocket that a handler's request asks for, None for an ordinary request.

    `connect()` on it returns None, as handlers do. A handler that receives messages itself
    may go on for as long as it likes. `settings` are those of `Settings`. In the thread of
    the server's loop.
    """
    request: Any = handler.request
    found: WebSocket | None = getattr(request, ATTRIBUTE, None)
    headers = Headers(request.headers.get_all())
    if found is None and is_websocket_request(request.method, headers):
        found = _make_websocket(handler, headers, Settings(**settings))
        setattr(request, ATTRIBUTE, found)
    if found is not None:
        found._follow(partial(forwarded_in, request, request.connection))
    return found


def _make_websocket(handler: RequestHandler, headers: Headers, settings: Settings) -> WebSocket:
    request: Any = handler.request
    request.connection._disconnect_on_finish = True  # no request can follow
    hand_over = HandOver(handler)
    hand_over.websocket = WebSocket(
        request_of(request, headers),
        settings,
        engine=hand_over.engine,
        when_connecting=hand_over.secure,
        when_receiving=hand_over.hasten,
        answer=lambda _: None,
    )
    return hand_over.websocket


async def close_all(code: int = GOING_AWAY, timeout: float | None = None) -> bool:
    """Close every WebSocket of the running loop and wait for the peers, up to `timeout`
    seconds (None: each connection's `close_timeout`). Returns whether all are closed."""
    over = asyncio.Event()
    engine.close_all(loop_engine(), code, when_done=over.set)
    try:
        await asyncio.wait_for(over.wait(), timeout)
    except asyncio.TimeoutError:
        return False
    return True


class HandOver(LoopHandOver):
    """The stream is detached; Tornado answers into the void, which shows when the handler has
    returned."""

    websocket: WebSocket

    def __init__(self, handler: RequestHandler) -> None:
        super().__init__()
        self._handler = handler

    def secure(self) -> None:
        request: Any = self._handler.request
        stream = request.connection.stream
        if stream is None or stream.closed():
            raise WebSocketError("the client has gone away")
        sock: socket.socket = stream.socket
        is_tls = isinstance(sock, ssl.SSLSocket)
        if is_tls and not IS_NATIVE:
            raise WebSocketError("without the native engine, no TLS socket can be taken over")
        self._own = sock if is_tls else duplicate(sock)
        request.connection.detach()
        request.connection = Void(self._handler, self._handler_is_done)
        self._early = bytes(stream._read_buffer[: stream._read_buffer_size])
        stream.io_loop.remove_handler(sock)
        if is_tls:
            sock.__class__ = InertTlsSocket
        stream.close()

    def _handler_is_done(self, raised: bool) -> None:
        outcome = self.websocket.outcome
        assert outcome is not None
        self._handler.set_status(outcome.status)  # for the log
        if raised:
            self.abandon(self.websocket)
        else:
            self.complete(self.websocket)


class Void:
    """What a handler is left with for a connection: nothing of what it writes is seen."""

    def __init__(self, handler: Any, when_done: Any) -> None:
        self._when_done = when_done
        self._raised = False
        handler.log_exception = partial(self._log_exception, handler.log_exception)

    def _log_exception(self, log: Any, *error: Any) -> None:
        self._raised = True
        log(*error)

    def write_headers(self, *_: Any) -> asyncio.Future[None]:
        return self.write()

    def write(self, *_: Any) -> asyncio.Future[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    def set_close_callback(self, _: Any) -> None:
        """It is not closed."""

    def finish(self) -> None:
        self._when_done(self._raised)


def forwarded_in(request: HTTPServerRequest, connection: Any) -> Forwarded:
    """As the handler sees it: with `xheaders`, what the proxy says."""
    peer: Any = getattr(getattr(connection, "context", None), "address", None)
    is_of_peer = isinstance(peer, tuple) and peer[0] == request.remote_ip
    address = address_of(request.remote_ip, peer[1] if is_of_peer else 0)
    return Forwarded(address, request.protocol, request.host)


def request_of(request: HTTPServerRequest, headers: Headers) -> Request:
    return Request(
        method=request.method or "",
        target=request.uri or "",
        headers=headers,
        http_version=request.version.removeprefix("HTTP/"),
        remote_address=forwarded_in(request, request.connection).remote_address,
        scheme=request.protocol,
    )
