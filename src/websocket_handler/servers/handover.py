"""Taking a connection away from an HTTP server that does not know how to let go of it.

An integration of a server is this, and knowing the server:

    hand_over = SocketHandOver(sock, reader)      # or TransportHandOver(transport)
    websocket = WebSocket(
        request, when_connecting=hand_over.secure, when_receiving=hand_over.hasten
    )
    ...                                 # the application's handler, which may connect()
    hand_over.complete(websocket)       # or abandon() if the handler raised

From a socket: the server keeps its descriptor number, with the end of a dummy pair behind
it (the transplant): what it still writes goes into the void, it reads end of file, and its
shutdown and close do their work on the dummy. So no server needs to be silenced, and every
teardown runs. A TLS socket becomes inert instead: its object remains with the server and
does nothing any more. So does a plain one of a server that knows no descriptor's number, which
costs less.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from typing import Protocol

from ..engine import IS_NATIVE, Engine, default_engine
from ..engine.tls import Socket, SSLSocket, is_of_gevent, is_tls, take_from_gevent
from ..errors import WebSocketError
from ..protocol.check import INTERNAL_ERROR
from ..websocket import Connected, WebSocket, close_connected
from .inert_socket import InertSocket, InertTlsSocket


class Reader(Protocol):
    """What is asked of a server's buffered reader."""

    def peek(self, size: int = 0, /) -> bytes: ...
    def read1(self, size: int = -1, /) -> bytes: ...


class HandOver:
    """One connection on its way from an HTTP server to the engine."""

    def __init__(self, engine: Engine | None = None, early: bytes = b"") -> None:
        self._engine = engine
        self._early = early
        self._own: Connected | None = None

    def secure(self) -> None:
        """Take the connection away from the server, which talks into the void from here on."""
        raise NotImplementedError

    def hasten(self, websocket: WebSocket) -> None:
        """Give the engine the connection now: the handler itself waits for messages."""
        raise NotImplementedError

    def complete(self, websocket: WebSocket) -> None:
        """The handler has returned: give the engine the connection, if `connect()` was called.

        A handler that received messages itself has had its conversation: that is closed.
        """
        if self._own is not None:
            self._give(websocket)
        elif websocket.outcome is not None:
            websocket.close()

    def abandon(self, websocket: WebSocket) -> None:
        """The handler raised: if it had called `connect()`, end the connection."""
        if self._own is not None:
            own, self._own = self._own, None
            websocket.abort()
            close_connected(own)
        elif websocket.outcome is not None:
            websocket.close(INTERNAL_ERROR, "internal error")

    def _give(self, websocket: WebSocket) -> None:
        own, self._own = self._own, None
        if own is not None:
            websocket.take_over(own, self._early)


class SocketHandOver(HandOver):
    """For servers that block on `sock` in a thread, and read through the buffered `reader`.

    What such a server never does, and must not do while the handler runs: wait for `sock`
    in an epoll set of its own.
    """

    def __init__(
        self,
        sock: socket.socket,
        reader: Reader,
        engine: Engine | None = None,
        *,
        knows_number: bool = True,
    ) -> None:
        """`knows_number` says that the server may have kept the number of the descriptor, and
        use it without the socket object: in a selector, or in another object."""
        super().__init__(engine)
        self._sock = sock
        self._reader = reader
        self._knows_number = knows_number
        self._thread = threading.get_ident()

    def secure(self) -> None:
        """Take the connection away from the server.

        Raises `OSError` if there are no descriptors left, `WebSocketError` for a TLS socket
        that is none of Python's or gevent's, or where the native engine is missing; then
        nothing has changed.
        """
        secure, of_gevent = is_tls(self._sock), is_of_gevent(self._sock)
        if secure and not IS_NATIVE:
            raise WebSocketError("without the native engine, no TLS socket can be taken over")
        if secure and not (of_gevent or isinstance(self._sock, SSLSocket)):
            raise WebSocketError(f"no {type(self._sock)} can be taken over, only ssl.SSLSocket")
        timeout = self._sock.gettimeout()
        self._sock.setblocking(False)
        self._early = read_early_bytes(self._reader)
        if of_gevent:
            self._own = take_from_gevent(self._sock)
        elif secure:
            self._sock.__class__ = InertTlsSocket
            self._own = self._sock
        elif type(self._sock) is Socket and not self._knows_number:
            self._own = InertSocket.take(self._sock)
        else:
            self._sock.settimeout(timeout)
            self._own = transplant(self._sock, self._engine or default_engine())

    def hasten(self, websocket: WebSocket) -> None:
        """Give the engine the socket now, if it is the handler itself that waits for messages.

        Whoever waits in another thread gets them soon enough: when the handler returns.
        """
        if self._thread == threading.get_ident():
            self._give(websocket)


def transplant(sock: socket.socket, engine: Engine) -> socket.socket:
    """The connection of `sock` on a descriptor of its own; `sock` is left with a dummy.

    Raises `OSError` if there are no descriptors left; then nothing has changed.
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
    engine.discard(void)
    return own


def duplicate(sock: socket.socket) -> socket.socket:
    """The same connection on another descriptor. `sock` may be anything like a socket."""
    return socket.socket(sock.family, sock.type, sock.proto, fileno=os.dup(sock.fileno()))


def read_early_bytes(reader: Reader) -> bytes:
    """What came in the same segment as the request head and sits in the server's buffer.

    The socket beneath must be non-blocking.
    """
    early = bytearray()
    with contextlib.suppress(ssl.SSLWantReadError):
        while waiting := reader.peek():
            early += reader.read1(len(waiting))
    return bytes(early)
