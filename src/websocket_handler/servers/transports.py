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

from ..engine import Engine, close_all, loop_engine
from ..websocket import Connected, WebSocket
from .handover import HandOver, duplicate


class LoopHandOver(HandOver):
    """For servers that live in a loop. In the thread of the running one."""

    def __init__(self, engine: Engine | None = None, early: bytes = b"") -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        super().__init__(engine or loop_engine(self._loop), early)

    @property
    def engine(self) -> Engine:
        """Where the connection will live."""
        assert self._engine is not None
        return self._engine

    def hasten(self, websocket: WebSocket) -> None:
        """Give the engine the connection now. Safe from any thread."""
        if self._thread == threading.get_ident():
            self._give(websocket)
        else:
            self._loop.call_soon_threadsafe(self._give, websocket)


class TransportHandOver(LoopHandOver):
    """For servers that leave the response to us. In the thread of the running loop.

    The server must have stopped reading from `transport`. `early` are bytes that came with
    the request head.
    """

    def __init__(
        self, transport: asyncio.Transport, engine: Engine | None = None, early: bytes = b""
    ) -> None:
        super().__init__(engine, early)
        self.transport = transport

    def secure(self) -> None:
        """Nobody but us uses the transport; the rest can wait for the loop's thread."""
        self._own = self.transport

    def _give(self, websocket: WebSocket) -> None:
        if self._own is not None:
            self._own = take_socket(self.transport)
        super()._give(websocket)


def take_socket(transport: asyncio.Transport) -> Connected:
    """The socket of a transport, which is dropped; the transport itself where it must stay.

    Its protocol is told of the loss, later.
    """
    sock: socket.socket | None = transport.get_extra_info("socket")
    is_plain = transport.get_extra_info("sslcontext") is None and sock is not None
    if not is_plain or transport.get_write_buffer_size() or transport.is_closing():
        return transport
    assert sock is not None
    own = duplicate(sock)
    transport.abort()
    return own


class InertTransport(asyncio.Transport):
    """What a server is left with that answers by itself: it talks into the void.

    `when_closed` is called, once, when the server has finished with it.
    """

    def __init__(self, former: asyncio.Transport, when_closed: Callable[[], object]) -> None:
        super().__init__()
        self._former = former
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


class OfOneServer:
    """The WebSockets that came through one server, to be closed with it. `WebSocket.server`
    of each is this."""

    def __init__(self, engine: Engine, code: int) -> None:
        self._engine = engine
        self._code = code
        self.is_closing = False
        self.undecided: set[Undecided] = set()

    def look_after(self, websocket: WebSocket) -> None:
        """To be called once the fate of a request is decided: it may be too late."""
        if self.is_closing:
            websocket.close(self._code)

    def close_all(self, when_done: Callable[[], object]) -> None:
        """Close those that there are, and those to come; in the loop's thread."""
        self.is_closing = True
        for conversation in tuple(self.undecided):
            conversation.server_closes()
        close_all(
            self._engine,
            self._code,
            only=lambda websocket: websocket._server is self,
            when_done=when_done,
        )
