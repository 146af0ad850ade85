"""A connection that an asyncio transport carries, where its socket cannot be taken away.

So it is with TLS in asyncio and uvloop, whose OpenSSL is out of reach, and with any other
transport. The engine is fed with what arrives, and writes to the transport.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections import deque
from typing import TYPE_CHECKING

from .empty_context import in_empty_context

if TYPE_CHECKING:
    from .channel import Channel
    from .engine import HangUp

RECEIVE_SIZE = 1 << 14
"""Bytes at once, of the many that a transport may deliver: as in a TLS record."""


class TransportConnection(asyncio.Protocol):
    """An asyncio transport, as a channel uses it. Everything runs in the transport's loop."""

    is_pollable = False
    descriptor = 1 << 30
    """In place of one: no process has so many, so nothing can be done to it by mistake."""
    lock = contextlib.nullcontext()
    """There is but the loop's thread."""

    def __init__(self, channel: Channel, transport: asyncio.Transport) -> None:
        self._channel = channel
        self._transport = transport
        self._arrived: deque[memoryview] = deque()
        self._input_ended = False
        self._output_ended = False
        self._is_full = False
        self._is_sending = False
        self._lost: str | None = None
        self._hang_up: HangUp | None = None
        transport.set_write_buffer_limits(high=1, low=0)  # what it cannot send now, we keep

    # For the channel

    def fileno(self) -> int:
        """The descriptor of the transport's socket, -1 if it has none."""
        sock = self._transport.get_extra_info("socket")
        return -1 if sock is None else int(sock.fileno())

    def receive(self) -> memoryview | bytes | None:
        """Received data, at most `RECEIVE_SIZE` bytes of it; b"" at the end, None if there
        is nothing now."""
        if not self._arrived:
            return b"" if self._input_ended else None
        first = self._arrived.popleft()
        if len(first) > RECEIVE_SIZE:
            self._arrived.appendleft(first[RECEIVE_SIZE:])
        return first[:RECEIVE_SIZE]

    def send(self, data: bytes) -> int:
        """How many bytes were taken, 0 if none can be now. Raises `OSError`."""
        if self._lost is not None:
            raise BrokenPipeError(self._lost)
        if self._is_full:
            return 0
        self._is_sending = True
        self._transport.write(data)
        self._is_sending = False
        return len(data)

    def read_on(self, wanted: bool) -> None:
        """Read from the peer, or no longer."""
        if self._transport.is_closing():
            return
        if wanted:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def watch_hang_up(self, wanted: bool) -> None:
        """While nothing is read from the peer, see whether it ends the connection: a transport
        that is paused does not."""
        if wanted and self._hang_up is None and not self._transport.is_closing():
            sock = self._transport.get_extra_info("socket")
            if sock is not None and self._channel._engine is not None:
                self._hang_up = self._channel._engine.watch_hang_up(sock.fileno(), self._channel)
        elif not wanted and self._hang_up is not None:
            self._hang_up.cancel()
            self._hang_up = None

    def end_output(self) -> None:
        """Nothing more will come: the transport closes when it has sent what it has."""
        self._output_ended = True
        if not self._input_ended and self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def close(self) -> None:
        """Drop what is left, unless both sides have ended in good order."""
        self.watch_hang_up(False)
        try:
            if self._output_ended and self._input_ended:
                self._transport.close()
            else:
                self._transport.abort()
        except RuntimeError:  # the loop is closed, so the transport can do nothing any more
            with contextlib.suppress(OSError, NotImplementedError):
                self._transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)

    # From the transport

    @in_empty_context
    def data_received(self, data: bytes) -> None:
        self._arrived.append(memoryview(data))
        self._channel._read_on()

    @in_empty_context
    def eof_received(self) -> bool:
        self._input_ended = True
        self._channel._read_on()
        return self._transport.can_write_eof()

    def pause_writing(self) -> None:
        self._is_full = True

    @in_empty_context
    def resume_writing(self) -> None:
        self._is_full = False
        if not self._is_sending:  # or the flush that is under way goes on
            self._channel._flush_now()

    @in_empty_context
    def connection_lost(self, error: Exception | None) -> None:
        self._lost = getattr(error, "strerror", None) or "the connection was dropped"
        self.watch_hang_up(False)
        if self._arrived:  # which is still read, and the end behind it
            self._input_ended = True
            self._channel._peer_hung_up(select.EPOLLHUP)
        else:
            self._channel._drop(self._lost)
