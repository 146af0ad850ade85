"""Hands a connection over from an HTTP server that runs in an asyncio or uvloop event loop.

The socket of a plain transport is duplicated, and the transport is aborted. A TLS transport, or one
with unsent bytes, is kept: the engine reads and writes through it.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from ..engine import Engine, close_connections, loop_engine
from ..moving.departures import DEFAULT_TIMEOUT_S, move_connections
from ..websocket import Stream, WebSocket
from .base import Handover
from .socket import duplicate


class LoopHandover(Handover):
    """Base class for servers that run in an event loop. Create it in the loop's thread."""

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
        """Give the connection to the engine. Thread-safe."""
        if self._thread == threading.get_ident():
            self._give_in_loop()
        else:
            self._loop.call_soon_threadsafe(self._give_in_loop)

    def _give_in_loop(self) -> None:
        super()._give()


class TransportHandover(LoopHandover):
    """Hands over the transport of a connection. Create it in the event loop's thread.

    The server must have stopped reading from `transport`. `early` are the bytes that were
    received after the request head.
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

    def add_early(self, data: bytes) -> None:
        """Add bytes that arrive although reading is paused: before Python 3.11, asyncio passes the
        TLS records of one read, at most 256 KiB, one by one."""
        self._early += data

    def _take(self) -> Stream:
        """Return the transport itself. Its socket is taken later, in the loop's thread."""
        return self.transport

    def _give_in_loop(self) -> None:
        if self._taken is not None:
            if self.transport.is_closing():  # connection_lost() may have been called
                self.websocket.abort()
            else:
                self._detached.discard(self.transport)
                self._taken = take_socket(self.transport)
        super()._give_in_loop()


def take_socket(transport: asyncio.Transport) -> Stream:
    """Return the socket of a plain transport, which is aborted; otherwise the transport itself,
    also if no descriptor is available.

    The event loop calls `connection_lost()` of the aborted transport's protocol later.
    """
    sock: socket.socket | None = transport.get_extra_info("socket")
    is_plain = transport.get_extra_info("sslcontext") is None and sock is not None
    if not is_plain or transport.get_write_buffer_size():
        return transport
    assert sock is not None
    try:
        own = duplicate(sock)
    except OSError:
        return transport
    transport.abort()
    return own


class InertTransport(asyncio.Transport):
    """A transport that a server keeps after `connect()`. Nothing written to it reaches the peer.

    `when_written` is called with the bytes of each write, `when_closed` once, when the server
    closes the transport.
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
        """Do nothing; nothing is read from the peer."""

    def resume_reading(self) -> None:
        """Do nothing; nothing is read from the peer."""

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Call `when_written`; the peer gets nothing."""
        self._when_written(bytes(data))

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        when_closed, self._when_closed = self._when_closed, None
        if when_closed is not None:
            when_closed()

    abort = close


class Undecided(Protocol):
    """A WebSocket request that the application has neither accepted nor rejected."""

    def server_closes(self) -> None: ...


class ServerConnections:
    """The WebSockets of one server, which closes them when it shuts down.

    It is the `server` of their handovers.
    """

    def __init__(self, engine: Engine, code: int) -> None:
        self._engine = engine
        self._code = code
        self.is_closing: bool = False
        self.undecided: set[Undecided] = set()

    def move_all(self, when_done: Callable[[], object], timeout: float = DEFAULT_TIMEOUT_S) -> None:
        """Move the WebSockets of the engine to a new process within `timeout` seconds, and close
        the others. In the loop's thread."""
        self.is_closing = True
        self._engine._ledger.is_draining = True
        loop = asyncio.get_running_loop()
        moving = loop.run_in_executor(
            None, partial(move_connections, self._engine, timeout=timeout)
        )
        moving.add_done_callback(lambda _: self.close_all(when_done))

    def track(self, websocket: WebSocket) -> None:
        """Close the WebSocket if the server is closing. Call it once the request is decided."""
        if self.is_closing:
            websocket.close(self._code)

    def close_all(self, when_done: Callable[[], object]) -> None:
        """Close all WebSockets, and those that are accepted later. In the loop's thread."""
        self.is_closing = True
        for conversation in tuple(self.undecided):
            conversation.server_closes()
        close_connections(
            self._engine,
            self._code,
            only=lambda websocket: websocket._server is self,
            when_done=when_done,
        )
