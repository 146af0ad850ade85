"""Tornado: `WebSocket.of(self)` in any request handler. It calls `websocket()` of this module.

    class Echo(RequestHandler):
        def get(self):
            ws = WebSocket.of(self)          # None for an ordinary request
            ...
            ws.connect()

The WebSocket runs in the server's own loop. Tornado has no event for the end of a server: await
`close_all_websockets()` where you stop it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from tornado.httputil import HTTPServerRequest
from tornado.web import RequestHandler

from .. import engine
from ..engine import IS_NATIVE, loop_engine
from ..errors import ConnectionMoved, WebSocketError
from ..handover.inert_socket import InertTlsSocket
from ..handover.socket import duplicate, ended_connection
from ..handover.transport import LoopHandover
from ..moving.arrivals import arrival_in_request
from ..protocol.close_codes import CloseCode
from ..protocol.request import Forwarded, Headers, Request, address_of, is_websocket_request
from ..settings import Settings, with_options
from ..websocket import Stream, WebSocket

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..settings import SettingsOptions

ATTRIBUTE = "_websocket_handler_websocket"
"""The attribute of Tornado's request that holds its WebSocket, so that there is only one."""


def websocket(
    handler: RequestHandler, settings: Settings | None = None, **options: Unpack[SettingsOptions]
) -> WebSocket | None:
    """Return the WebSocket of a handler's request, None for an ordinary request.

    Its `connect()` returns None, as handlers do. A handler may also receive the messages itself
    and return at the end. `settings` is a `Settings`;
    `options` are its fields by name. Call it in the thread of the
    server's event loop.
    """
    request: Any = handler.request
    found: WebSocket | None = getattr(request, ATTRIBUTE, None)
    headers = Headers(request.headers.get_all())
    if found is None and is_websocket_request(request.method, headers):
        found = _make_websocket(handler, headers, with_options(settings, options))
        setattr(request, ATTRIBUTE, found)
    if found is not None and not found.resumed:
        found._follow(partial(forwarded_in, request, request.connection))
    return found


def _make_websocket(handler: RequestHandler, headers: Headers, settings: Settings) -> WebSocket:
    request: Any = handler.request
    request.connection._disconnect_on_finish = True  # Tornado reads no further request
    handover = TornadoHandover(handler)
    original, handover.arrival = arrival_in_request(request_of(request, headers))
    if handover.arrival is not None:
        address = original.remote_address
        request.remote_ip = str(address[0]) if isinstance(address, tuple) else None
        request.protocol = original.scheme
    return WebSocket(original, settings, handover=handover)


async def close_all_websockets(
    code: int = CloseCode.GOING_AWAY, timeout: float | None = None
) -> bool:
    """Close every WebSocket of the running loop and wait for the peers, up to `timeout`
    seconds (None: each connection's `close_timeout`). Returns whether all are closed."""
    over = asyncio.Event()
    engine.close_connections(loop_engine(), code, when_done=over.set)
    try:
        await asyncio.wait_for(over.wait(), timeout)
    except asyncio.TimeoutError:
        return False
    return True


class TornadoHandover(LoopHandover):
    """Takes the socket of Tornado's stream. The response goes to a `ResponseConnection`."""

    def __init__(self, handler: RequestHandler) -> None:
        super().__init__()
        self._handler = handler
        connection: Any = handler.request.connection
        self._connection = connection
        connection.write_headers = self._write_headers

    def _write_headers(self, start_line: Any, *arguments: Any) -> Any:
        """Leave the response to Tornado."""
        vars(self._connection).pop("write_headers", None)
        self.decline(start_line.code)
        return self._connection.write_headers(start_line, *arguments)

    def connect_result(self, status: int) -> None:  # noqa: ARG002
        """Return None: Tornado accepts nothing else from a handler."""
        return

    def _take(self) -> Stream:
        request: Any = self._handler.request
        stream = request.connection.stream
        if stream is None:
            raise WebSocketError("the connection was detached from Tornado already")
        if stream.closed():  # the client has left: `close` is emitted with 1006
            self._take_response()
            return ended_connection()
        sock: socket.socket = stream.socket
        is_tls = isinstance(sock, ssl.SSLSocket)
        if is_tls and not IS_NATIVE:
            raise WebSocketError("taking over a TLS socket needs the native engine")
        own = sock if is_tls else duplicate(sock)
        request.connection.detach()
        self._take_response()
        self._early = bytes(stream._read_buffer[: stream._read_buffer_size])
        stream.io_loop.remove_handler(sock)
        if is_tls:
            sock.__class__ = InertTlsSocket
        stream.close()
        return own

    def _take_response(self) -> None:
        """Have the handler's response come here, or its being cancelled."""
        vars(self._connection).pop("write_headers", None)
        request: Any = self._handler.request
        request.connection = ResponseConnection(self._handler, self)
        handler: Any = self._handler
        handler._handle_request_exception = partial(
            _handle_exception, handler, handler._handle_request_exception
        )
        task = asyncio.current_task()
        if task is not None:
            task.add_done_callback(self._handler_ended)

    def _handler_ended(self, task: asyncio.Task[Any]) -> None:
        """Abort if the handler was cancelled, because Tornado sends no response then."""
        if task.cancelled() and not self.is_complete:
            self.abort()


class ResponseConnection:
    """Replaces the handler's connection after `connect()`. Passes its response to the handover."""

    def __init__(self, handler: RequestHandler, handover: TornadoHandover) -> None:
        self._handler = handler
        self._handover = handover
        self._is_body_wanted = False

    def write_headers(self, start_line: Any, headers: Any, chunk: bytes = b"") -> Any:
        self._is_body_wanted = self._handover.begin_response(
            start_line.code, headers.get_all(), start_line.reason
        )
        return self.write(chunk)

    def write(self, chunk: bytes) -> asyncio.Future[None]:
        if self._is_body_wanted:
            self._handover.write(chunk)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    def set_close_callback(self, _: Any) -> None:
        """Do nothing; this connection does not close."""

    def finish(self) -> None:
        if self._is_body_wanted:
            self._handover.write(b"", is_last=True)
        self._handler.set_status(self._handover.status)  # for the access log


def _handle_exception(
    handler: RequestHandler, handle: Callable[[BaseException], None], error: BaseException
) -> None:
    """End a handler that has received messages until its connection was moved, without a log."""
    if isinstance(error, ConnectionMoved):
        handler.finish()
    else:
        handle(error)


def forwarded_in(request: HTTPServerRequest, connection: Any) -> Forwarded:
    """Return address, scheme and host of the handler's request; with `xheaders`, the proxy's."""
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
