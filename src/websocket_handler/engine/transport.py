"""A connection whose socket stays in an asyncio transport.

That is needed for TLS in asyncio and uvloop, whose OpenSSL objects cannot be taken out, and for a
plain transport that still has unsent data. The transport passes received data to the channel, and
the channel writes to the transport.
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
"""Maximum number of bytes that `receive` returns: the size of a TLS record."""


class TransportConnection(asyncio.Protocol):
    """The layer between a channel and an asyncio transport. Runs in the transport's loop."""

    is_pollable = False
    descriptor = 1 << 30
    """A placeholder: no process has so many descriptors, so it never names another one."""

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
        transport.set_write_buffer_limits(high=1, low=0)  # the channel buffers, not the transport

    # For the channel

    def __enter__(self) -> None:
        """Acquire no lock: only the loop's thread uses the transport."""

    def __exit__(self, *_: object) -> None:
        pass

    def fileno(self) -> int:
        """Return the descriptor of the transport's socket, -1 if it has none."""
        sock = self._transport.get_extra_info("socket")
        return -1 if sock is None else int(sock.fileno())

    def receive(self, size: int) -> memoryview | bytes | None:
        """Return received data, at most `size` and `RECEIVE_SIZE` bytes; b"" after the peer's end,
        None if there is none now."""
        if not self._arrived:
            return b"" if self._input_ended else None
        first, size = self._arrived.popleft(), min(size, RECEIVE_SIZE)
        if len(first) > size:
            self._arrived.appendleft(first[size:])
        return first[:size]

    def send(self, data: bytes) -> int:
        """Write to the transport. Returns the number of bytes accepted, 0 if its buffer is full.
        Raises `OSError` if the connection is lost."""
        if self._lost is not None:
            raise BrokenPipeError(self._lost)
        if self._is_full:
            return 0
        self._is_sending = True
        self._transport.write(data)
        self._is_sending = False
        return len(data)

    def read_on(self, wanted: bool) -> None:
        """Resume or pause the transport's reading."""
        if self._transport.is_closing():
            return
        if wanted:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def watch_hang_up(self, wanted: bool) -> None:
        """Start or stop watching for the end of the connection. A paused transport does not detect
        it."""
        if wanted and self._hang_up is None and not self._transport.is_closing():
            sock = self._transport.get_extra_info("socket")
            if sock is not None and self._channel._engine is not None:
                self._hang_up = self._channel._engine._watch_hang_up(sock.fileno(), self._channel)
        elif not wanted and self._hang_up is not None:
            self._hang_up.cancel()
            self._hang_up = None

    def end_output(self) -> None:
        """End the sending direction once the transport has sent its buffered data. Closes the
        transport if the peer has ended, too, or if it cannot end one direction only."""
        self._output_ended = True
        if not self._input_ended and self._transport.can_write_eof():
            end_output_of(self._transport)
        else:
            self._transport.close()

    def close(self) -> None:
        """Close the transport if both directions have ended, else abort it."""
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
        if not self._is_sending:  # else the flush in progress continues
            self._channel._flush_now()

    @in_empty_context
    def connection_lost(self, error: Exception | None) -> None:
        self._lost = getattr(error, "strerror", None) or "the connection was dropped"
        self.watch_hang_up(False)
        if self._arrived:  # the channel still reads this data, then the end
            self._input_ended = True
            self._channel._peer_hung_up(select.EPOLLHUP)
        else:
            self._channel._drop(self._lost)


def end_output_of(transport: asyncio.Transport) -> None:
    """End the sending direction of a transport. If the peer has reset the connection, this does
    nothing: `connection_lost` follows."""
    with contextlib.suppress(OSError):
        transport.write_eof()
