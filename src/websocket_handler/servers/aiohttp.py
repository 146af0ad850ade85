"""aiohttp: `WebSocket.of(request)` in any handler. It calls `websocket()` of this module.

    async def handler(request):
        ws = WebSocket.of(request)           # None for an ordinary request
        ...
        return ws.connect()

The WebSocket runs in the server's own event loop. aiohttp's parser rejects the oldest handshakes
(hixie-76 to hybi-03).
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

from aiohttp import web

from ..engine import loop_engine
from ..errors import WebSocketError
from ..handover.raw_response import RawResponse
from ..handover.transport import InertTransport, ServerConnections, TransportHandover
from ..moving.arrivals import arrival_in_request
from ..protocol.close_codes import CloseCode
from ..protocol.request import (
    Forwarded,
    Headers,
    Request,
    address_of,
    http_scheme,
    is_websocket_request,
)
from ..settings import Settings, with_options
from ..websocket import Stream, WebSocket

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..settings import SettingsOptions

KEY: Any = "websocket_handler.websocket"
if hasattr(web, "RequestKey"):  # since aiohttp 3.14, which warns of a str
    KEY = web.RequestKey(KEY, WebSocket)
"""The key of the request's WebSocket in the request, so that there is only one."""


def websocket(
    request: web.BaseRequest, settings: Settings | None = None, **options: Unpack[SettingsOptions]
) -> WebSocket | None:
    """Return the WebSocket of a request, None for an ordinary request.

    Its `connect()` returns the response that the handler should return. A handler may also
    receive the messages itself and return at the end. `settings` is a `Settings`; `options` are its
    fields by name. At shutdown, WebSockets are closed with 1001. Call it in the event loop of the
    request.
    """
    found: WebSocket | None = request.get(KEY)
    if found is None and is_websocket_request(request.method, request.headers):
        handover = AiohttpHandover(request)
        original, handover.arrival = arrival_in_request(request_of(request))
        found = request[KEY] = WebSocket(
            original, with_options(settings, options), handover=handover
        )
        if handover.arrival is not None:
            _restore(request, original)
    if found is not None and not found.resumed:
        found._follow(partial(forwarded_in, request))
    return found


class AiohttpHandover(TransportHandover):
    """Takes aiohttp's transport. aiohttp writes the response to an inert one, and closes that."""

    def __init__(self, request: web.BaseRequest) -> None:
        transport = request.transport
        if transport is None:
            raise WebSocketError("the client has disconnected")
        super().__init__(transport, server=AiohttpConnections.of(request))
        self._server_protocol: Any = request.protocol
        self._server_protocol.close()  # aiohttp reads no further request
        writer: Any = request._payload_writer
        self._writer = writer
        writer.write_headers = self._write_headers

    def _take(self) -> Stream:
        vars(self._writer).pop("write_headers", None)
        protocol, response = self._server_protocol, RawResponse(self)
        self.transport.pause_reading()
        self.transport.set_protocol(asyncio.Protocol())
        self._early, protocol._message_tail = protocol._message_tail, b""
        protocol.transport = InertTransport(
            self.transport, partial(self._server_is_done, response), response.feed
        )
        return super()._take()

    def _write_headers(self, status_line: str, headers: Any) -> Any:
        """Leave the response to aiohttp."""
        vars(self._writer).pop("write_headers", None)
        self.decline(int(status_line.split()[1]))
        return self._writer.write_headers(status_line, headers)

    def connect_result(self, status: int) -> web.Response:
        """Return a response for the access log, to which middleware may add headers."""
        return web.Response(status=status)

    def _server_is_done(self, response: RawResponse) -> None:
        self._loop.call_soon(self._server_protocol.connection_lost, None)
        if not response.end():  # the handler was cancelled
            self.abort()


class AiohttpConnections(ServerConnections):
    """Acts as one of aiohttp's connections, so that its shutdown closes all WebSockets."""

    _known: ClassVar[WeakKeyDictionary[web.Server, AiohttpConnections]] = WeakKeyDictionary()

    @classmethod
    def of(cls, request: web.BaseRequest) -> AiohttpConnections:
        """Return the object of the request's server. The first request creates it."""
        server = request.protocol._manager
        assert server is not None
        connections = cls._known.get(server)
        if connections is None:
            connections = cls._known[server] = cls(loop_engine(), CloseCode.GOING_AWAY)
            server.connection_made(connections, None)  # type: ignore[arg-type]
        return connections

    def close(self) -> None:
        """Do nothing: aiohttp calls this before `shutdown()`, while requests may continue."""

    async def shutdown(self, timeout: float | None = None) -> None:
        over = asyncio.Event()
        self.close_all(when_done=over.set)
        try:
            await asyncio.wait_for(over.wait(), timeout)
        except asyncio.TimeoutError:
            return


def forwarded_in(request: web.BaseRequest) -> Forwarded:
    """Return address, scheme and host of the handler's request, which may be a clone."""
    transport = request.transport
    peer: Any = transport.get_extra_info("peername") if transport else None
    is_of_peer = isinstance(peer, tuple) and peer[0] == request.remote
    address = address_of(request.remote, peer[1] if is_of_peer else 0)
    return Forwarded(address, http_scheme(request.scheme), request.host)


def _restore(request: web.BaseRequest, original: Request) -> None:
    """Put the address and the scheme of a moved connection into the request, as `clone` does."""
    address = original.remote_address
    request._cache["remote"] = str(address[0]) if isinstance(address, tuple) else None
    request._cache["scheme"] = original.scheme


def request_of(request: web.BaseRequest) -> Request:
    return Request(
        method=request.method,
        target=request.raw_path,
        headers=Headers(
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers
        ),
        http_version=f"{request.version.major}.{request.version.minor}",
        remote_address=forwarded_in(request).remote_address,
        scheme=http_scheme(request.scheme),
    )
