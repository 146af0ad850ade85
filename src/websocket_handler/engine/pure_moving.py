"""Takes an open connection out of the pure-Python engine, to move it to another process.

The functions are those of the native `moving`, and are called in the engine's thread, too.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from ..protocol.position import Position
from .pure import Channel

_suspended: dict[Channel, asyncio.Transport] = {}


def suspend(channel: Channel) -> int | None:
    """Stop reading and writing. Returns the descriptor, which stays open; None if the connection
    cannot be suspended.

    A suspended channel is like one before its socket is attached: it collects the data to send.
    """
    transport = channel._transport
    if transport is None or transport.is_closing():
        return None
    if transport.get_extra_info("sslcontext") is not None:
        return None
    if channel._finishing or channel._input_ended or channel._descriptor < 0:
        return None
    rest = _take_buffer(transport)
    if rest is None:
        return None
    descriptor = channel._descriptor
    transport.pause_reading()
    channel._set_deadline(None)
    channel._transport = None
    _suspended[channel] = transport
    if rest:
        channel._prepend(rest)
    return descriptor


def _take_buffer(transport: Any) -> bytes | None:
    """Remove and return the bytes in the transport's buffer; None if it does not show them."""
    if not transport.get_write_buffer_size():
        return b""
    buffer = getattr(transport, "_buffer", None)  # a deque of views, or a bytearray until 3.11
    remove_writer = getattr(getattr(transport, "_loop", None), "_remove_writer", None)
    if buffer is None or remove_writer is None:
        return None
    rest = bytes(buffer) if isinstance(buffer, bytearray) else b"".join(map(bytes, buffer))
    buffer.clear()
    remove_writer(transport.get_extra_info("socket").fileno())
    return rest


def resume(channel: Channel, _descriptor: int) -> None:
    """Undo `suspend`."""
    transport = channel._transport = _suspended.pop(channel)
    channel._pause_reading(channel._reading_paused)
    channel._set_usual_deadline()
    channel._flush()
    with contextlib.suppress(AttributeError):
        transport._protocol.resume_writing()  # type: ignore[attr-defined]


def release(channel: Channel, _descriptor: int) -> None:
    """Close this process's copy of the socket of a suspended channel."""
    _suspended.pop(channel).abort()
    engine = channel._engine
    assert engine is not None
    engine._attached.discard(channel)
    channel._discard_output()
    channel._released()


def unsent(channel: Channel) -> bytes:
    """Return the bytes in the send buffer."""
    with channel._output_lock:
        return b"".join(channel._outgoing)


def position(channel: Channel) -> Position:
    raise NotImplementedError  # the connection has a codec in Python


def window(channel: Channel) -> bytes:
    raise NotImplementedError


def set_window(channel: Channel, window: bytes) -> None:
    raise NotImplementedError
