"""The standard library's http.server, and whatever is built on it: wsgiref for one.

`configure_server` puts a layer over the server's request handler class. A request that
asks for a WebSocket finds it in `self.websocket` (under WSGI: `environ["wsgi.websocket"]`)
and goes through the handler like any other. `connect()` takes the socket away from the
handler at once, so that nothing the handler or a WSGI server still writes is seen; the
engine gets it when the handler has returned.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import math
import re
import socket
import socketserver
import ssl
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from io import BufferedIOBase, BufferedReader
from typing import Any, ClassVar, TypeVar, cast

from ..engine import Engine, close_all, default_engine
from ..protocol.request import Headers, Request, is_websocket_request
from ..settings import Settings
from ..websocket import WebSocket
from .handover import Reader, SocketHandOver

Server = TypeVar("Server", bound=socketserver.BaseServer)

FIELD_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n")
"""RFC 9112 section 5, and RFC 9110 section 5.5. The standard library takes much else for the
end of a line, or of the head."""


def configure_server(server: Server, *, engine: Engine | None = None, **settings: Any) -> Server:
    """Let the handlers of `server` find WebSockets among their requests; returns `server`.

    `server` is an `HTTPServer`, a `ThreadingHTTPServer`, a wsgiref server or any other
    whose handler class is a `BaseHTTPRequestHandler` (or a `functools.partial` of one).
    `engine` is where the WebSockets will live, by default a background thread of the
    process; `settings` are those of `Settings`. `server.server_close()` closes the
    server's WebSockets with 1001. Raises `TypeError` if the handler class is something
    else or a setting is unknown, `ValueError` for a bad one.
    """
    chosen = Settings(**settings)
    layer = {"websocket_settings": chosen, "websocket_engine": engine}
    server.RequestHandlerClass = _with_layer(server.RequestHandlerClass, layer)
    _pause_when_full(server)
    close = server.server_close

    def server_close() -> None:
        close()
        close_all(
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
    return type(handler.__name__, (WebSocketRequests, handler), layer)


TIMEOUT_STEP = 0.25
"""Seconds: how often at most a socket is told how much of the time for a head is left."""

NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
ACCEPT_PAUSE = 0.05
"""Seconds until a server with no descriptors left tries again to accept who is waiting."""


def _pause_when_full(server: Any) -> None:
    """Have the server wait a little where `accept` fails for want of room: the listening socket
    stays readable, and `serve_forever` would try without pause."""
    accept = server.get_request

    def get_request() -> Any:
        try:
            return accept()
        except OSError as error:
            if error.errno in NO_ROOM:
                time.sleep(ACCEPT_PAUSE)
            raise

    server.get_request = get_request


class HeadReader:
    """A handler's reader while it reads the head of a request: keeps the lines as they came,
    and raises `TimeoutError` if the head is not whole in time, however its bytes trickle in.

    The time begins now, or with the first byte where the connection `may_idle` before.
    """

    def __init__(
        self, reader: BufferedIOBase, sock: socket.socket, seconds: float, may_idle: bool
    ) -> None:
        self.reader = reader
        self.lines: list[bytes] = []
        self._sock = sock
        self._usual_timeout = sock.gettimeout()
        self._seconds = seconds
        self._deadline = math.inf
        self._set_at = -math.inf
        if not may_idle:
            self._deadline = time.monotonic() + seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self.reader, name)

    def readline(self, limit: int = -1) -> bytes:
        line = bytearray()
        while not line.endswith(b"\n") and len(line) != limit:
            waiting = self._peek()
            if not waiting:
                break
            size = waiting.find(b"\n") + 1 or len(waiting)
            line += self.reader.read(size if limit < 0 else min(size, limit - len(line)))
        self.lines.append(bytes(line))
        return self.lines[-1]

    def _peek(self) -> bytes:
        now = time.monotonic()
        if now >= self._deadline:
            raise TimeoutError("the head of the request did not come in time")
        if self._deadline < math.inf and now - self._set_at > TIMEOUT_STEP:
            self._set_at, left = now, self._deadline - now
            self._sock.settimeout(min(left, self._usual_timeout or left))
        waiting: bytes = cast(Reader, self.reader).peek(1)
        if self._deadline == math.inf:
            self._deadline = time.monotonic() + self._seconds
        return waiting

    def give_back(self) -> BufferedIOBase:
        """The head is whole: the reader as it was, with the time-out that the handler gave it."""
        if self._set_at > -math.inf:
            self._sock.settimeout(self._usual_timeout)
        return self.reader

    def is_sound(self) -> bool:
        """Whether each line is a header field, or the end of the head."""
        return all(FIELD_LINE.fullmatch(line) or line in (b"\r\n", b"") for line in self.lines)

    def may_ask(self) -> bool:
        """Whether the head asks for a WebSocket, or would but for a bad line."""
        return b"websocket" in b"".join(self.lines).lower()


class WebSocketRequests(BaseHTTPRequestHandler):
    """The layer over a request handler class; `websocket` is None for ordinary requests."""

    websocket_settings: ClassVar[Settings]
    websocket_engine: ClassVar[Engine | None]  # None: the process's, which a fork changes
    websocket: WebSocket | None = None
    _hand_over: SocketHandOver
    _logged = False

    def setup(self) -> None:
        super().setup()
        self._expect_head(may_idle=False)

    def _expect_head(self, may_idle: bool) -> None:
        """Read the head of a request next, if the reader is one that can be looked into."""
        if isinstance(self.rfile, BufferedReader):
            seconds = self.websocket_settings.open_timeout
            head = HeadReader(self.rfile, self.connection, seconds, may_idle)
            self.rfile = cast(BufferedIOBase, head)

    def parse_request(self) -> bool:
        self.websocket = None
        self._expect_head(may_idle=False)
        head: Any = self.rfile
        is_watched = isinstance(head, HeadReader)
        if is_watched:
            head.lines.clear()  # of which the first was the request line
        try:
            if not super().parse_request():
                return False
        except TimeoutError as error:
            self.log_error("Request timed out: %r", error)
            self.close_connection = True
            return False
        finally:
            if is_watched:
                self.rfile = head.give_back()
        if is_watched and head.may_ask() and not head.is_sound():
            with contextlib.suppress(ConnectionError):  # the peer may be gone within the head
                self.send_error(HTTPStatus.BAD_REQUEST, "Bad header line")
            self.close_connection = True
            return False
        if is_websocket_request(self.command, self.headers):
            # Every answer but a 101 ends the connection, in words any client understands.
            self.protocol_version = "HTTP/1.1"
            self.close_connection = True
            self._logged = False
            self._hand_over = SocketHandOver(
                self.connection, cast(Reader, self.rfile), self.websocket_engine
            )
            self.websocket = WebSocket(
                self._request(),
                self.websocket_settings,
                engine=self.websocket_engine,
                server=self.server,
                when_connecting=self._hand_over.secure,
                when_receiving=self._hand_over.hasten,
            )
        return True

    def handle_one_request(self) -> None:
        self._expect_head(may_idle=True)
        super().handle_one_request()
        if self.websocket is not None:
            self.close_connection = True  # what follows a handshake is never a request

    def handle(self) -> None:
        try:
            super().handle()
        except TimeoutError as error:
            if not isinstance(cast(object, self.rfile), HeadReader):
                raise
            self.log_error("Request timed out: %r", error)
        except BaseException:
            if self.websocket is not None:
                self._hand_over.abandon(self.websocket)
            raise
        if self.websocket is None or self.websocket.outcome is None:
            return
        if not self._logged:
            self.log_request(int(self.websocket.outcome.status))
        self._hand_over.complete(self.websocket)

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
        """The WSGI environment, where the handler class is that of a WSGI server."""
        environ: dict[str, Any] = super().get_environ()  # type: ignore[misc]
        environ["wsgi.websocket"] = self.websocket
        return environ

    def _request(self) -> Request:
        return Request(
            method=self.command,
            target=self.path,
            headers=Headers(self.headers.items()),
            http_version=self.request_version.removeprefix("HTTP/"),
            remote_address=self.client_address,
            scheme="https" if isinstance(self.connection, ssl.SSLSocket) else "http",
        )
