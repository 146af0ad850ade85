"""A connection that an asyncio transport carries, where its socket cannot be taken away.

So it is with TLS in asyncio and uvloop, whose OpenSSL is out of reach, and with any other
transport. The engine is fed with what arrives, and writes to the transport.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING

from .empty_context import in_empty_context

if TYPE_CHECKING:
    from .channel import Channel


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
        self._arrived: deque[bytes] = deque()
        self._input_ended = False
        self._output_ended = False
        self._is_full = False
        self._is_sending = False
        transport.set_write_buffer_limits(high=1, low=0)  # what it cannot send now, we keep

    # For the channel

    def receive(self) -> bytes | None:
        """What has arrived; b"" at the end, None if there is nothing now."""
        if self._arrived:
            return self._arrived.popleft()
        return b"" if self._input_ended else None

    def send(self, data: bytes) -> int:
        """How many bytes were taken, 0 if none can be now."""
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

    def end_output(self) -> None:
        """Nothing more will come: the transport closes when it has sent what it has."""
        self._output_ended = True
        if not self._input_ended and self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def close(self) -> None:
        """Drop what is left, unless both sides have ended in good order."""
        if self._output_ended and self._input_ended:
            self._transport.close()
        else:
            self._transport.abort()

    # From the transport

    @in_empty_context
    def data_received(self, data: bytes) -> None:
        self._arrived.append(data)
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
        self._channel._drop(getattr(error, "strerror", None) or "the connection was dropped")
