"""Handing a connection over from an HTTP server, which does not know how to let go of it, to the
engine.

An integration of a server is this, and knowing the server:

    handover = SocketHandover(sock, reader)      # or TransportHandover(transport)
    websocket = WebSocket(request, handover=handover)
    ...                                          # the application's handler, which may connect()
    handover.complete(status, headers, body)     # its response; or abort() if it raised

`connect()` detaches the connection from the server. The 101 is sent when the response of the
application is known: a status below 400 accepts the WebSocket, another rejects it, and then the
client gets that response. The engine sends either.

From a socket: the server keeps its descriptor number, with the end of a dummy pair behind
it (the transplant): it writes to nobody, reads end of file, and its shutdown and close do their
work on the dummy. So no server needs to be silenced, and every teardown runs. A TLS socket becomes
inert instead: its object remains with the server and does nothing any more. So does a plain one
of a server that knows no descriptor's number, which costs less.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, ClassVar, Protocol

from ..engine import IS_NATIVE, Engine, default_engine
from ..engine.tls import Socket, SSLSocket, is_of_gevent, is_tls, take_from_gevent
from ..errors import WebSocketError
from ..protocol.close_codes import CloseCode
from ..protocol.handshake import Accepted
from ..protocol.state import State
from ..websocket import Stream, WebSocket, close_stream
from .inert_socket import InertSocket, InertTlsSocket

logger = logging.getLogger("websocket_handler")

Fields = Iterable[tuple[str, str]]

FAILED = 500
TEXT = ("Content-Type", "text/plain; charset=utf-8")


class Reader(Protocol):
    """A server's buffered reader, as far as it is used here."""

    def peek(self, size: int = 0, /) -> bytes: ...
    def read1(self, size: int = -1, /) -> bytes: ...


class Stage(Enum):
    """How far a handover has come."""

    OFFERED = "the server has the connection"
    DECLINED = "the server sends the response"
    DETACHED = "connect() was called; the response is not known"
    EARLY = "the 101 was sent before the response is known"
    CONVERSATION = "as EARLY; the handler itself receives the messages"
    COMPLETE = "the response is known"


class Handover:
    """One connection on its way from an HTTP server to the engine.

    `server` is what all WebSockets of one server have in common, to be closed together.
    `on_decided` is called with the status that answers the handshake, just before it is sent.
    """

    websocket: WebSocket
    """Set by the WebSocket that has this handover."""

    _stage = Stage.OFFERED
    _own: Stream | None = None

    _detached: ClassVar[set[Stream]] = set()
    """Those that are on their way: not to be garbage together with a request that is dropped."""

    def __init__(
        self,
        engine: Engine | None = None,
        early: bytes = b"",
        *,
        server: object = None,
        on_decided: Callable[[int], object] | None = None,
    ) -> None:
        self.engine = engine
        self.server = server
        self.on_decided = on_decided
        self.status = 0
        """The status that answers the handshake; 0 until it is sent, or if the server does."""
        self._early = early

    # For `connect()` and the handler

    def detach(self) -> None:
        """Take the connection from the server, which writes to nobody from here on.

        Raises `WebSocketError` if the request has been answered; then nothing has changed.
        """
        if self._stage is not Stage.OFFERED:
            raise WebSocketError("the request has been answered already")
        self._keep(self._take())
        self._stage = Stage.DETACHED

    def connect_result(self, status: int) -> Any:  # noqa: ARG002
        """The return value of `connect()`: something that a handler may return."""
        return ""

    def complete_early(self, is_conversation: bool) -> None:
        """Send the 101 before the response is known: the handler waits for the peer."""
        if self._stage is Stage.DETACHED:
            self._stage = Stage.EARLY
            self._give()
        if self._stage is Stage.EARLY and is_conversation:
            self._stage = Stage.CONVERSATION

    # For integrations

    @property
    def is_detached(self) -> bool:
        """Whether the connection has been taken from the server."""
        return self._stage not in (Stage.OFFERED, Stage.DECLINED)

    @property
    def is_complete(self) -> bool:
        """Whether the response of the application is known."""
        return self._stage is Stage.COMPLETE

    def complete(
        self, status: int = 200, fields: Fields = (), body: bytes = b"", reason: str = ""
    ) -> None:
        """The response of the application is known, and this is all of it.

        Does nothing if `connect()` was not called: then the server sends the response.
        """
        if self.begin_response(status, fields, reason):
            self.write(body, is_last=True)

    def begin_response(self, status: int, fields: Fields = (), reason: str = "") -> bool:
        """The status and the header fields of the response are known; sends the 101 if they
        accept the WebSocket. Returns whether its body has to follow, by `write`.

        Raises `ValueError` for a field that cannot stand in the head of a response.
        """
        stage = self._stage
        if stage is Stage.DETACHED:
            return self._decide(status, list(fields), reason)
        if stage is Stage.OFFERED:
            self.decline(status)
        elif stage in (Stage.EARLY, Stage.CONVERSATION):
            self._stage = Stage.COMPLETE
            self._end_handler(status, stage is Stage.CONVERSATION)
        return False

    def reject(self, status: int, fields: Fields = (), reason: str = "") -> None:
        """Send the response whether or not `connect()` was called. Its body follows by `write`."""
        if not self.is_detached:
            self._keep(self._take())
        self.websocket._reject(status, reason, fields)
        self._stage = Stage.COMPLETE
        self._give()

    def write(self, data: bytes, is_last: bool = False) -> None:
        """More of the body of a response that rejects the WebSocket."""
        self.websocket._write_response(data, is_last)

    def abort(self) -> None:
        """The handler failed, or was cancelled, and there is no response."""
        if self._stage is Stage.DETACHED:
            self.complete(FAILED, [TEXT], b"Internal Server Error\n")
        elif self.is_detached:
            self._stage = Stage.COMPLETE
            if self.websocket._outcome is not None:
                self.websocket.close(CloseCode.INTERNAL_ERROR, "internal error")

    def decline(self, status: int) -> None:
        """The server sends the response: `connect()` was not called, and is too late now."""
        websocket, self._stage = self.websocket, Stage.DECLINED
        self.on_decided = None
        if status < 400 and websocket._has_listeners:
            logger.warning(
                "the handler of %r registered listeners for its WebSocket, but did not call "
                "connect(): the client gets the status %d",
                websocket.request.path,
                status,
            )

    def __del__(self) -> None:
        """The server has dropped the request."""
        if self._stage is Stage.DETACHED:
            engine = self.websocket._engine
            if engine is not None:
                engine.post(self.abort)
            elif self._own is not None:
                self._detached.discard(self._own)
                close_stream(self._own)

    # How it is done

    def _take(self) -> Stream:
        """The connection, which the server has no more; may raise, if nothing has changed."""
        raise NotImplementedError

    def _keep(self, own: Stream) -> None:
        self._own = own
        self._detached.add(own)

    def _decide(self, status: int, fields: list[tuple[str, str]], reason: str) -> bool:
        outcome = self.websocket._outcome
        if outcome is None and status < 400:  # connect() failed half-way
            status, fields, reason = FAILED, [], ""
        is_rejected = status >= 400 and (outcome is None or isinstance(outcome, Accepted))
        if is_rejected:
            self.websocket._reject(status, reason, fields)
        else:
            self.websocket._add_to_response(fields)
        self._stage = Stage.COMPLETE
        self._give()
        return is_rejected

    def _end_handler(self, status: int, is_conversation: bool) -> None:
        """The 101 was sent already."""
        websocket = self.websocket
        if status >= 400:
            if websocket.state is not State.CLOSED:
                logger.warning("%r: the handler failed with %d after the 101", websocket, status)
            websocket.close(CloseCode.INTERNAL_ERROR, "internal error")
        elif is_conversation:
            websocket.close()

    def _give(self) -> None:
        """Give the engine the connection."""
        own, self._own = self._own, None
        if own is None:
            return
        self._detached.discard(own)
        outcome = self.websocket._outcome
        if outcome is not None:
            self.status = int(outcome.status)
        on_decided, self.on_decided = self.on_decided, None
        if on_decided is not None:
            on_decided(self.status)
        self.websocket._take_over(own, self._early)


class SocketHandover(Handover):
    """For servers that block on `sock` in a thread, and read through the buffered `reader`.

    Such a server must not wait for `sock` in an epoll set of its own while the handler runs.
    """

    def __init__(
        self,
        sock: socket.socket,
        reader: Reader,
        engine: Engine | None = None,
        *,
        server: object = None,
        server_keeps_fd: bool = True,
    ) -> None:
        """`server_keeps_fd` says that the server may have kept the number of the descriptor, and
        use it without the socket object: in a selector, or in another object."""
        super().__init__(engine, server=server)
        self._sock = sock
        self._reader = reader
        self._server_keeps_fd = server_keeps_fd
        self._thread = threading.get_ident()

    def _take(self) -> Stream:
        """Raises `OSError` if there are no descriptors left, `WebSocketError` for a TLS socket
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
            return take_from_gevent(self._sock)
        if secure:
            self._sock.__class__ = InertTlsSocket
            return self._sock
        if type(self._sock) is Socket and not self._server_keeps_fd:
            return InertSocket.take(self._sock)
        self._sock.settimeout(timeout)
        return transplant(self._sock, self.engine or default_engine())

    def complete_early(self, is_conversation: bool) -> None:
        """Only if it is the handler itself that waits. Another thread that waits for messages
        gets them soon enough: when the response is known.
        """
        if self._thread == threading.get_ident():
            super().complete_early(is_conversation)


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
    """The bytes after the request head that the server has in its buffer, or at most as many as
    that buffer takes, if it is empty; the engine reads all others, under its limits.

    The socket beneath must be non-blocking.
    """
    with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return reader.read1(len(waiting)) if (waiting := reader.peek()) else b""
    return b""
