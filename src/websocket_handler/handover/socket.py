"""Hands a connection over from an HTTP server to the engine. The server needs no support for that.

An integration of a server has these steps:

    handover = SocketHandover(sock, reader)      # or TransportHandover(transport)
    websocket = WebSocket(request, handover=handover)
    ...                                          # the application's handler; it may call connect()
    handover.complete(status, headers, body)     # its response; or abort() if it raised

`connect()` detaches the connection from the server. The response to the handshake is sent when the
response of the application is known. A status below 400 accepts the WebSocket with a 101. Any other
status rejects it, and the client gets the application's response. The engine sends both.

A plain socket is transplanted: the connection gets a new descriptor, and the server keeps its
descriptor number, which now refers to one end of a dummy socket pair. The server's writes are
discarded, its reads return end of file, and its shutdown and close apply to the dummy. So the
server needs no changes, and its teardown code runs as usual.

A TLS socket is bound to its Python object, so it becomes inert instead: the server keeps the
object, whose methods have no effect any more. A plain socket becomes inert, too, if the server does
not keep the descriptor number. That costs less than a transplant.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import Protocol

from ..engine import IS_NATIVE, Engine, default_engine
from ..engine.tls import Socket, SSLSocket, is_of_gevent, is_tls, take_from_gevent
from ..errors import WebSocketError
from ..websocket import Stream
from .base import Handover
from .inert_socket import InertSocket, InertTlsSocket


class Reader(Protocol):
    """The methods of a server's buffered reader that are used here."""

    def peek(self, size: int = 0, /) -> bytes: ...
    def read1(self, size: int = -1, /) -> bytes: ...


class SocketHandover(Handover):
    """Hands over a socket on which the server blocks in a thread.

    `reader` is the buffered reader of the connection. While the handler runs, the server must
    not have `sock` in an epoll set or another selector.
    """

    _void: socket.socket | None = None
    """The other end of the server's dummy socket if nothing reads it: the server may still write
    a short response to it."""

    def __init__(
        self,
        sock: socket.socket,
        reader: Reader,
        engine: Engine | None = None,
        *,
        server: object = None,
        server_keeps_fd: bool = True,
    ) -> None:
        """`server_keeps_fd`: the server may use the descriptor number without the socket object,
        for example in a selector. False avoids the dummy socket pair.
        """
        super().__init__(engine, server=server)
        self._sock = sock
        self._reader = reader
        self._server_keeps_fd = server_keeps_fd
        self._thread = threading.get_ident()

    def _take(self) -> Stream:
        """Take the connection.

        Raises `OSError` if no descriptor is available, and `WebSocketError` if a TLS socket is
        neither an `ssl.SSLSocket` nor gevent's, or without the native engine. Nothing has
        changed then.
        """
        is_plain = type(self._sock) is Socket
        secure = not is_plain and is_tls(self._sock)
        of_gevent = secure and is_of_gevent(self._sock)
        if secure and not IS_NATIVE:
            raise WebSocketError("taking over a TLS socket needs the native engine")
        if secure and not (of_gevent or isinstance(self._sock, SSLSocket)):
            raise WebSocketError(f"cannot take over a {type(self._sock)}, only an ssl.SSLSocket")
        timeout = self._sock.gettimeout()
        self._sock.setblocking(False)
        self._early = read_early_bytes(self._reader)
        if of_gevent:
            return take_from_gevent(self._sock)
        if secure:
            self._sock.__class__ = InertTlsSocket
            return self._sock
        if is_plain and not self._server_keeps_fd:
            return InertSocket.take(self._sock)
        self._sock.settimeout(timeout)
        engine = self.engine or default_engine()
        own, void = transplant(self._sock)
        try:
            engine._discard(void)
        except RuntimeError:  # the engine cannot serve: the client is going to get 503
            self._void = void
        return own

    def __del__(self) -> None:
        super().__del__()
        if self._void is not None:
            self._void.close()

    def complete_early(self, is_conversation: bool) -> None:
        """Send the 101 early if the handler's own thread waits.

        Another thread gets its messages when the response is known, so it needs no early 101.
        """
        if self._thread == threading.get_ident():
            super().complete_early(is_conversation)


def transplant(sock: socket.socket) -> tuple[socket.socket, socket.socket]:
    """Return the connection of `sock` on a new descriptor, and the other end of the dummy socket
    that `sock` keeps.

    Raises `OSError` if no descriptor is available. Nothing has changed then.
    """
    own = duplicate(sock)
    try:
        dummy, void = socket.socketpair()
    except OSError:
        own.close()
        raise
    with dummy:
        void.shutdown(socket.SHUT_WR)
        os.dup2(dummy.fileno(), sock.fileno(), inheritable=False)
    return own, void


def ended_connection() -> socket.socket:
    """Return a socket whose peer has closed, in place of a connection that the server has closed
    because the client left."""
    own, peer = socket.socketpair()
    peer.close()
    return own


def duplicate(sock: socket.socket) -> socket.socket:
    """Return the same connection on another descriptor. `sock` may be any socket-like object."""
    return socket.socket(sock.family, sock.type, sock.proto, fileno=os.dup(sock.fileno()))


def read_early_bytes(reader: Reader) -> bytes:
    """Return the bytes after the request head from the server's buffer.

    If the buffer is empty, one read fills it, so its size limits the result. The engine reads all
    later bytes, under its own limits. The socket of `reader` must be non-blocking.
    """
    with contextlib.suppress(OSError):  # SSLWantReadError, or a reset, which the engine finds again
        return reader.read1(len(waiting)) if (waiting := reader.peek()) else b""
    return b""
