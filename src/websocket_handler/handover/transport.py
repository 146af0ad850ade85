"""Taking a connection away from a server that lives in asyncio or uvloop.

The socket of a plain transport is duplicated and the transport dropped; TLS, and a
transport that still has something to send, go on to carry the bytes, and feed the engine.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Any, Protocol

from ..engine import Engine, close_connections, loop_engine
from ..websocket import Stream, WebSocket
from .socket import Handover, duplicate


class LoopHandover(Handover):
    """For servers that run in an event loop. In the thread of the running one."""

    def __init__(
        self,
        engine: Engine | None = None,
        early: bytes = b"",
        *,
        server: object = None,
        on_decided: Callable[[int], object] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        engine = engine or loop_engine(self._loop)
        super().__init__(engine, early, server=server, on_decided=on_decided)

    def _give(self) -> None:
        """Safe from any thread."""
        if self._thread == threading.get_ident():
            self._give_in_loop()
        else:
            self._loop.call_soon_threadsafe(self._give_in_loop)

    def _give_in_loop(self) -> None:
        super()._give()


class TransportHandover(LoopHandover):
    """For servers that leave the response to us. In the thread of the running loop.

    The server must have stopped reading from `transport`. `early` are bytes that came with
    the request head.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        engine: Engine | None = None,
        early: bytes = b"",
        *,
        server: object = None,
        on_decided: Callable[[int], object] | None = None,
    ) -> None:
        super().__init__(engine, early, server=server, on_decided=on_decided)
        self.transport = transport

    def _take(self) -> Stream:
        """Only we use the transport; the rest can wait for the loop's thread."""
        return self.transport

    def _give_in_loop(self) -> None:
        if self._own is not None:
            if self.transport.is_closing():  # its protocol may have been told of the end
                self.websocket.abort()
            else:
                self._detached.discard(self.transport)
                self._own = take_socket(self.transport)
        super()._give_in_loop()


def take_socket(transport: asyncio.Transport) -> Stream:
    """The socket of a transport, which is dropped; the transport itself where it must stay.

    Its protocol is told of the loss, later.
    """
    sock: socket.socket | None = transport.get_extra_info("socket")
    is_plain = transport.get_extra_info("sslcontext") is None and sock is not None
    if not is_plain or transport.get_write_buffer_size():
        return transport
    assert sock is not None
    own = duplicate(sock)
    transport.abort()
    return own


class InertTransport(asyncio.Transport):
    """The transport of a server that responds by itself: nothing of it reaches the peer.

    `when_written` is called with what the server writes, `when_closed` once, when the server has
    finished with it.
    """

    def __init__(
        self,
        former: asyncio.Transport,
        when_closed: Callable[[], object],
        when_written: Callable[[bytes], object] = lambda _: None,
    ) -> None:
        super().__init__()
        self._former = former
        self._when_written = when_written
        self._when_closed: Callable[[], object] | None = when_closed

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._former.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._when_closed is None

    def is_reading(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """Nothing is read."""

    def resume_reading(self) -> None:
        """Nothing is read."""

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Nothing is written."""
        self._when_written(bytes(data))

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        when_closed, self._when_closed = self._when_closed, None
        if when_closed is not None:
            when_closed()

    abort = close


class Undecided(Protocol):
    """A request for a WebSocket that the application has neither accepted nor rejected."""

    def server_closes(self) -> None: ...


class ServerConnections:
    """The WebSockets that came through one server, to be closed with it: the `server` of their
    handovers."""

    def __init__(self, engine: Engine, code: int) -> None:
        self._engine = engine
        self._code = code
        self.is_closing = False
        self.undecided: set[Undecided] = set()

    def track(self, websocket: WebSocket) -> None:
        """To be called once the fate of a request is decided: it may be too late."""
        if self.is_closing:
            websocket.close(self._code)

    def close_all(self, when_done: Callable[[], object]) -> None:
        """Close those that there are, and those to come; in the loop's thread."""
        self.is_closing = True
        for conversation in tuple(self.undecided):
            conversation.server_closes()
        close_connections(
            self._engine,
            self._code,
            only=lambda websocket: websocket._server is self,
            when_done=when_done,
        )
