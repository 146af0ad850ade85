"""The standard library's http.server and the servers built on it, wsgiref for example.

`configure_server` derives a class from the server's request handler class. A WebSocket request
passes through the handler like any other request, with its WebSocket in `self.websocket` (under
WSGI: `environ["wsgi.websocket"]`). `connect()` takes the socket from the handler at once. The bytes
that the handler or a WSGI server writes after that are parsed here for the status and the headers.
The engine gets the socket when these are known, or when the handler has returned.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import re
import socketserver
import ssl
import time
from http import HTTPStatus
from http.client import HTTPMessage
from http.server import BaseHTTPRequestHandler
from io import BufferedIOBase, BufferedReader
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from ..engine import Engine, close_connections, default_engine
from ..errors import ConnectionMoved
from ..handover.raw_response import RawResponse
from ..handover.socket import Reader, SocketHandover
from ..moving.arrivals import HEADER, arrival_in_request
from ..protocol.request import Headers, Request, is_websocket_request
from ..settings import Settings, with_options
from ..websocket import WebSocket
from .request_head import HeadReader, is_valid, mentions_websocket, parse_usual, read_usual
from .werkzeug import patch_router

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..settings import SettingsOptions

Server = TypeVar("Server", bound=socketserver.BaseServer)


def configure_server(
    server: Server,
    *,
    engine: Engine | None = None,
    settings: Settings | None = None,
    **options: Unpack[SettingsOptions],
) -> Server:
    """Let the handlers of `server` accept WebSockets. Returns `server`.

    In a handler, `WebSocket.of(self)` returns the WebSocket, or None for an ordinary request.
    `server` is an `HTTPServer`, a `ThreadingHTTPServer`, a wsgiref server or any other server
    whose handler class is a `BaseHTTPRequestHandler` (or a `functools.partial` of one).
    `engine` serves the WebSockets; the default runs in a background thread of the process.
    `settings` is a `Settings`; `options` are its fields by name. `server.server_close()` closes the
    server's WebSockets with 1001.

    Raises `TypeError` if the handler class is not one of these, if `server` was configured before,
    or if a setting is unknown. Raises `ValueError` if the value of a setting is not valid.
    """
    chosen = with_options(settings, options)
    layer = {"websocket_settings": chosen, "websocket_engine": engine}
    server.RequestHandlerClass = _with_layer(server.RequestHandlerClass, layer)
    _pause_when_full(server)
    close = server.server_close

    def server_close() -> None:
        close()
        close_connections(
            engine or default_engine(),
            timeout=chosen.close_timeout,
            only=lambda websocket: websocket._server is server,
        )

    server.server_close = server_close  # type: ignore[method-assign]
    return server


def _with_layer(handler: Any, layer: dict[str, Any]) -> Any:
    if isinstance(handler, functools.partial):
        inner = _with_layer(handler.func, layer)
        return functools.partial(inner, *handler.args, **handler.keywords)
    if not (isinstance(handler, type) and issubclass(handler, BaseHTTPRequestHandler)):
        raise TypeError(f"{handler!r} is not a subclass of http.server.BaseHTTPRequestHandler")
    if issubclass(handler, WebSocketRequests):
        raise TypeError("configure_server() was called for this server before")
    parses_itself = (
        handler.parse_request is not BaseHTTPRequestHandler.parse_request
        or handler.MessageClass is not HTTPMessage
    )
    layer = {**layer, "_has_own_parser": parses_itself}
    return type(handler.__name__, (WebSocketRequests, handler), layer)


RESOURCE_ERRORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
ACCEPT_PAUSE_S = 0.05
"""Seconds until a server without free descriptors calls `accept` again."""


def _pause_when_full(server: Any) -> None:
    """Pause if `accept` fails because descriptors or memory are exhausted.

    The listening socket stays readable, so `serve_forever` would retry in a busy loop.
    """
    accept = server.get_request

    def get_request() -> Any:
        try:
            return accept()
        except OSError as error:
            if error.errno in RESOURCE_ERRORS:
                time.sleep(ACCEPT_PAUSE_S)
            raise

    server.get_request = get_request


class WebSocketRequests(BaseHTTPRequestHandler):
    """Added to a request handler class. `websocket` is None for an ordinary request."""

    websocket_settings: ClassVar[Settings]
    websocket_engine: ClassVar[Engine | None]  # None: the default engine, new after a fork
    raw_requestline: bytes
    websocket: WebSocket | None = None
    _has_own_parser: ClassVar[bool]
    """Whether the request handler class changes how a request is parsed."""
    _handover: SocketHandover
    _response: RawResponse
    _logged = False

    def setup(self) -> None:
        super().setup()
        self._expect_head(may_idle=False)

    def _expect_head(self, may_idle: bool) -> None:
        """Read the next request head through a `HeadReader`, if the reader has `peek()`."""
        if isinstance(self.rfile, BufferedReader):
            seconds = self.websocket_settings.open_timeout
            head = HeadReader(self.rfile, self.connection, seconds, may_idle)
            self.rfile = cast(BufferedIOBase, head)

    def parse_request(self) -> bool:
        self.websocket = None
        self._expect_head(may_idle=False)
        head: Any = self.rfile
        is_watched = isinstance(head, HeadReader)
        lines: bytes | None = None
        if is_watched:
            head.lines.clear()  # the request line
            lines = head.buffered_fields()
            if lines is not None:  # no read can wait: the standard library needs no `HeadReader`
                self.rfile = head.release()
        if lines is not None and self._parse_usual_handshake(lines):
            return True
        try:
            if not super().parse_request():
                return False
        except TimeoutError as error:
            self.log_error("Request timed out: %r", error)
            self.close_connection = True
            return False
        finally:
            if is_watched and lines is None:
                self.rfile = head.release()
        if is_watched and lines is None:
            lines = b"".join(head.lines)
        if lines and mentions_websocket(lines) and not is_valid(lines):
            with contextlib.suppress(ConnectionError):  # the peer may have disconnected
                self.send_error(HTTPStatus.BAD_REQUEST, "Bad header line")
            self.close_connection = True
            return False
        if is_websocket_request(self.command, self.headers):
            self._begin_handshake(Headers(self.headers.raw_items()))  # decoded from Latin-1
        return True

    def _parse_usual_handshake(self, lines: bytes) -> bool:
        """Parse a usual handshake, whose `lines` after the request line are in the reader's buffer.
        Returns False if the request is another one, which the standard library has to parse."""
        if self._has_own_parser or not mentions_websocket(lines):
            return False
        parsed = parse_usual(self.raw_requestline, lines)
        if parsed is None or len(parsed[1].get_all("Upgrade")) != 1:
            return False
        if not is_websocket_request("GET", parsed[1]):
            return False
        read_usual(self, lines, *parsed)
        self._begin_handshake(parsed[1])
        return True

    def _begin_handshake(self, headers: Headers) -> None:
        # Every response but a 101 ends the connection. It is HTTP/1.1, as clients expect.
        self.protocol_version = "HTTP/1.1"
        self.close_connection = True
        self._logged = False
        self._offer_websocket(headers)

    def _offer_websocket(self, headers: Headers) -> None:
        handover = SocketHandover(
            self.connection,
            cast(Reader, self.rfile),
            self.websocket_engine,
            server=self.server,
            server_keeps_fd=False,
        )
        self._handover, self._response = handover, RawResponse(handover)
        self.wfile = ResponseWriter(self.wfile, handover, self._response)
        received = self._request(headers)
        request, handover.arrival = arrival_in_request(received)
        if request is not received:
            del self.headers[HEADER]
        if handover.arrival is not None:
            self.client_address = cast("tuple[str, int]", request.remote_address or ("", 0))
        self.websocket = WebSocket(request, self.websocket_settings, handover=handover)

    def handle_one_request(self) -> None:
        self._expect_head(may_idle=True)
        super().handle_one_request()
        if self.websocket is not None:
            self.close_connection = True  # bytes after a handshake are never a request

    def handle(self) -> None:
        try:
            super().handle()
        except TimeoutError as error:
            if not isinstance(cast(object, self.rfile), HeadReader):
                raise
            self.log_error("Request timed out: %r", error)
        except ConnectionMoved:
            self._handover.complete()
        except BaseException:
            if self.websocket is not None:
                self._log_handover(HTTPStatus.INTERNAL_SERVER_ERROR)
                self._handover.abort()
            raise
        if self.websocket is not None and self._handover.is_detached:
            self._response.end()
            outcome = self.websocket._outcome
            self._log_handover(outcome.status if outcome else HTTPStatus.INTERNAL_SERVER_ERROR)
            self._handover.complete()

    def _log_handover(self, status: int) -> None:
        """Write the access log line if the handler sent no response itself."""
        if self._handover.is_detached and not self._logged:
            self.log_request(self._handover.status or int(status))

    def end_headers(self) -> None:
        buffer = getattr(self, "_headers_buffer", [])
        if self.websocket is not None and not any(
            line.lower().startswith(b"connection:") for line in buffer
        ):
            self.send_header("Connection", "close")
        super().end_headers()

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        self._logged = True
        super().log_request(code, size)

    def get_environ(self) -> dict[str, Any]:
        """Return the WSGI environ, if the handler class is that of a WSGI server."""
        environ: dict[str, Any] = super().get_environ()  # type: ignore[misc]
        environ["wsgi.websocket"] = self.websocket
        if self.websocket is not None:
            patch_router()
        return environ

    def _request(self, headers: Headers) -> Request:
        return Request(
            method=self.command,
            target=self.path,
            headers=headers,
            http_version=self.request_version.removeprefix("HTTP/"),
            remote_address=self.client_address,
            scheme="https" if isinstance(self.connection, ssl.SSLSocket) else "http",
        )


STATUS = re.compile(rb"HTTP/[0-9.]+ ([0-9]{3})")


class ResponseWriter(BufferedIOBase):
    """A handler's `wfile`. Writes to the peer until `connect()`, then to the response parser."""

    def __init__(self, wfile: Any, handover: SocketHandover, response: RawResponse) -> None:
        self._wfile = wfile
        self._handover = handover
        self._response = response
        self._has_begun = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self._handover.is_detached:
            self._response.feed(bytes(data))
            return memoryview(data).nbytes
        if not self._has_begun:
            self._has_begun = True
            found = STATUS.match(data)
            self._handover.decline(int(found[1]) if found else 200)
        self._wfile.write(data)
        return memoryview(data).nbytes

    def flush(self) -> None:
        if not self.closed and not self._handover.is_detached:
            self._wfile.flush()

    def fileno(self) -> int:
        number: int = self._wfile.fileno()
        return number

    def close(self) -> None:
        super().close()
        self._wfile.close()
