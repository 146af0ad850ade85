"""The engine in plain Python, for where the native one cannot be: asyncio carries the bytes.

It has the interface of the native engine (`engine.pyi`, `channel.pyi`) and the same two
homes, and uses the codec of `protocol`. Slower, and a few objects a connection; nothing else
differs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Container
from contextvars import Context
from typing import Any, ClassVar

from ..protocol.permessage_deflate import Terms
from ..protocol.prepared import PreparedMessage
from ..protocol.versions import Version
from ..settings import Settings
from .empty_context import in_empty_context
from .ledger import Ledger, Stats, Traffic

logger = logging.getLogger("websocket_handler")


class Engine:
    """Serves WebSockets that were taken over from HTTP servers.

    Without `loop`, an event loop in a background thread does it, started with the first
    connection. With a `loop`, listeners run in that loop, and must not block it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._is_guest = loop is not None
        self._loop = loop
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._channels: set[Channel] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._owner: int | None = None
        self._closed = False
        self.ledger = Ledger()
        if loop is not None:
            loop.call_soon_threadsafe(self.adopt_thread)

    @property
    def home_loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that the engine lives in, None for a thread of its own."""
        return self._loop if self._is_guest else None

    @property
    def is_running(self) -> bool:
        """Whether anyone serves what is posted: a thread from the first connection on."""
        return self._loop is not None and not self._closed

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of a running engine."""
        assert self._loop is not None
        return self._loop

    def may_wait(self) -> bool:
        """Whether the calling thread may wait for a peer: none that serves others may."""
        return asyncio._get_running_loop() is None

    def is_own_thread(self) -> bool:
        """Whether the caller runs in the thread of the event loop."""
        return self._owner == threading.get_ident()

    def adopt_thread(self) -> None:
        """Declare the calling thread the one of the event loop."""
        self._owner = threading.get_ident()

    def post(self, call: Callable[[], object]) -> None:
        """Have `call()` made in the engine's thread, soon. Safe from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, context=Context())

    def interrupt(self, error: BaseException) -> None:
        """Pass on what is meant for the program and not for us: Ctrl-C, exit."""
        if self._is_guest:
            raise error

    def stats(self) -> Stats:
        """An account of what happened so far; from any thread."""
        return self.ledger.stats(self.channels(), take_overs=0)

    def attach(self, channel: Channel, sock: socket.socket, early: bytes = b"") -> None:
        """Give a connected socket to the engine, with bytes already read from it."""
        self._start()
        sock.setblocking(False)
        channel._engine = self
        own = socket.socket(fileno=sock.detach())
        self._channels.add(channel)
        self._connect(lambda: _Carrier(self, channel, early), own)

    @in_empty_context
    def attach_transport(
        self, channel: Channel, transport: asyncio.Transport, early: bytes = b""
    ) -> None:
        """Give an asyncio transport to the engine, which lives in its loop; in that loop's
        thread. `early` was already read from it."""
        channel._engine = self
        self._channels.add(channel)
        carrier = _Carrier(self, channel, early)
        transport.set_protocol(carrier)
        carrier.connection_made(transport)
        if not channel._reading_paused:
            transport.resume_reading()

    def discard(self, sock: socket.socket) -> None:
        """Take a socket over to throw away what arrives on it, until its end."""
        self._start()
        sock.setblocking(False)
        self._connect(asyncio.Protocol, socket.socket(fileno=sock.detach()))

    def channels(self) -> list[Any]:
        """Every attached channel."""
        return list(self._channels)

    def stop(self, timeout: float | None = None) -> None:
        """Drop every connection and leave the home. See `close_all` for the polite way.

        Waits up to `timeout` seconds for a listener that is still running in the thread.
        """
        self._closed = True
        if self._thread is not None and self._loop is not None and not self.is_own_thread():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout)
        elif self._is_guest:
            self.post(self.close)

    def close(self) -> None:
        """Drop every connection as it is. In the engine's thread."""
        for channel in self.channels():
            channel._drop("the engine was closed")

    def abandon(self) -> None:
        """In a forked child: let go of what belongs to the parent, without a word to anyone."""
        for channel in self._channels:
            if channel._transport is not None:
                with contextlib.suppress(OSError):
                    os.close(channel._transport.get_extra_info("socket").fileno())
        self._channels.clear()
        self._loop = self._thread = None
        self._closed = True

    def _start(self) -> None:
        if self._closed:
            raise RuntimeError("the engine is closed")
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._run, args=(self._loop,), name="websocket-engine", daemon=True
                )
                self._thread.start()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        self.adopt_thread()
        asyncio.set_event_loop(loop)
        loop.run_forever()
        self.close()
        loop.run_until_complete(asyncio.sleep(0))  # the transports' last calls
        loop.close()

    def _connect(self, protocol: Callable[[], asyncio.BaseProtocol], sock: socket.socket) -> None:
        def begin() -> None:
            task = self.loop.create_task(self.loop.connect_accepted_socket(protocol, sock))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        self.post(begin)


def fan_out(
    members: tuple[Any, ...], message: PreparedMessage, excluded: Container[Any] = ()
) -> tuple[int, list[Any]]:
    """See the native engine's, whose twin this is. No channel here has a codec."""
    del message
    return 0, [member for member in members if member not in excluded]


class Channel:
    """One connection's bytes: what `WebSocket` is made of."""

    __slots__ = (
        "_above_water",
        "_after_messages",
        "_controls",
        "_controls_since",
        "_corked",
        "_deaf",
        "_drain_due",
        "_engine",
        "_finishing",
        "_heard",
        "_input_ended",
        "_is_client",
        "_latency",
        "_limits",
        "_message_listener",
        "_outgoing",
        "_paused",
        "_reading_paused",
        "_sendable",
        "_taken_over",
        "_tell_when_flushed",
        "_timer",
        "_traffic",
        "_transport",
        "_unsent",
        "_waiting",
    )

    _engine: Engine | None
    _transport: asyncio.Transport | None
    _timer: asyncio.TimerHandle | None
    _message_listener: Callable[[Any], object] | None
    _after_messages: Callable[[], object] | None
    _outgoing: list[bytes]
    _waiting: int  # the bytes in `_outgoing`
    _unsent: threading.Lock  # held while these two change
    _above_water: bool
    _drain_due: bool
    _sendable: bool
    _deaf: bool
    _taken_over: bool
    _paused: bool
    _latency: float
    _corked: bool
    _tell_when_flushed: bool
    _finishing: bool
    _input_ended: bool
    _reading_paused: bool
    _traffic: Traffic
    _controls: int  # so many control frames came in the second that began at
    _controls_since: float
    _is_client: bool  # who goes on reading while its peer is behind: see `is_held_back`

    # What the engine calls; a WebSocket has them.
    _opened: Callable[[], None]
    _feed: Callable[[bytes], None]
    _send_otherwise: Callable[[Any, bool | None], None]
    _failed: Callable[[BaseException], None]
    _input_over: Callable[[], None]
    _drained: Callable[[], None]
    _flushed: Callable[[], None]
    _deadline_passed: Callable[[], None]
    _connection_lost: Callable[[str], None]
    _released: Callable[[], None]

    def __new__(cls, *_: object, **__: object) -> Channel:
        self = super().__new__(cls)
        self._engine = self._transport = self._timer = self._message_listener = None
        self._after_messages = None
        self._sendable = self._deaf = self._corked = self._tell_when_flushed = False
        self._finishing = self._input_ended = self._reading_paused = False
        self._above_water = self._drain_due = self._is_client = False
        self._taken_over = self._paused = False
        self._latency = -1.0
        self._outgoing = []
        self._waiting = 0
        self._traffic = Traffic()
        self._controls, self._controls_since = 0, 0.0
        self._unsent = threading.Lock()
        self._heard = time.monotonic()
        return self

    has_codec: ClassVar[bool] = False
    has_deflate: ClassVar[bool] = False

    def _bind(
        self,
        engine: Engine,
        settings: Settings,
        version: Version,  # noqa: ARG002
        client: bool,
        foreign: bool,  # noqa: ARG002
        agreed: Terms | None,  # noqa: ARG002
    ) -> None:
        self._engine = engine
        self._limits = settings
        self._is_client = client

    # sending

    def send(self, message: Any, compress: bool | None = None) -> None:
        """Send a message: text for `str`, binary for bytes-like, fragments for an iterable.

        See the native engine's `Channel.send`, whose twin this is.
        """
        self._send_otherwise(message, compress)

    @property
    def buffered_amount(self) -> int:
        """The bytes accepted by `send` that the operating system has not taken yet."""
        kept = self._transport.get_write_buffer_size() if self._transport else 0
        return kept + self._waiting

    @property
    def _blocked(self) -> bool:
        return bool(self._transport and self._transport.get_write_buffer_size())

    def _counts(self) -> Traffic:
        return self._traffic

    def _count(self, **counts: int) -> None:
        self._traffic = self._traffic.plus(Traffic(**counts))

    def _is_flooded(self) -> bool:
        """Count one more control frame; whether there are too many in this second."""
        if self._heard - self._controls_since >= 1:
            self._controls, self._controls_since = 0, self._heard
        self._controls += 1
        return self._controls > self._limits.max_control_frames

    def _write(self, data: bytes) -> None:
        with self._unsent:
            self._outgoing.append(data)
            self._waiting += len(data)
        if self.buffered_amount > self._limits.high_water:
            self._above_water = True
        if self._transport is None or self._engine is None:
            return
        if not self._engine.is_own_thread():
            self._engine.post(self._flush)
        elif self._waiting > self._limits.high_water:
            self._flush()
        elif not self._corked:  # what this turn of the loop sends leaves together
            self._corked = True
            self._engine.loop.call_soon(self._uncork, context=Context())

    def _write_message(self, message: str | bytes, compress: bool | None) -> None:
        raise NotImplementedError  # the codec is elsewhere

    def _stop_sending(self) -> None:
        raise NotImplementedError  # it has never begun

    def _write_frame(self, opcode: int, payload: bytes, fin: bool = True) -> None:
        raise NotImplementedError  # the codec is elsewhere

    def _uncork(self) -> None:
        self._corked = False
        self._flush()

    def _flush(self) -> None:
        """Send what has collected, in one call."""
        if self._transport is None:
            return
        with self._unsent:
            outgoing, self._outgoing = self._outgoing, []
        if outgoing and not self._transport.is_closing():
            data = b"".join(outgoing)
            self._count(bytes_sent=len(data))
            self._transport.write(data)
        with self._unsent:  # only now, or `buffered_amount` would miss it for a moment
            self._waiting -= sum(map(len, outgoing))
        if self._finishing:
            self._end_output()
        else:
            self._look_at_water()

    def _look_at_water(self) -> None:
        """Stop reading from a peer that is behind, go on with one that has caught up."""
        transport = self._transport
        if not self._above_water or transport is None or transport.is_closing():
            return
        assert self._engine is not None
        left = transport.get_write_buffer_size()
        if left > self._limits.high_water:
            if not self._is_client:
                transport.pause_reading()
        elif left <= self._limits.high_water // 4:
            self._above_water = False
            self._pause_reading(self._reading_paused)
            if not self._drain_due:  # told when no listener is in the middle of sending
                self._drain_due = True
                self._engine.post(self._tell_drained)

    def _pause_reading(self, paused: bool) -> None:
        """Read nothing more, or go on. In the engine's thread only."""
        self._reading_paused = paused
        if self._transport is None or self._transport.is_closing():
            return
        if paused or (self._above_water and not self._is_client):
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _tell_drained(self) -> None:
        self._drain_due = False
        if not self._above_water:  # or the listener went on sending, and there will be another
            self._drained()

    # receiving

    def _receive(self, data: bytes) -> None:
        self._heard = time.monotonic()
        self._count(bytes_received=len(data))
        self._corked = True
        if not self._deaf:
            self._feed(data)
        if self._after_messages is not None:
            try:
                self._after_messages()
            except BaseException as error:
                self._failed(error)
        self._uncork()

    # ending

    def _finish(self) -> None:
        self._finishing = self._deaf = True
        self._sendable = False
        if not self._corked:
            self._flush()

    def _end_output(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self._input_ended or not self._transport.can_write_eof():
            self._transport.close()
        else:
            self._transport.write_eof()

    def _drop(self, reason: str) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._connection_lost(reason)

    def _set_deadline(self, delay: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if delay is not None and self._transport is not None:
            assert self._engine is not None
            self._timer = self._engine.loop.call_later(
                delay, self._deadline_passed, context=Context()
            )


class _Carrier(asyncio.Protocol):
    """What asyncio tells of the transport, put as the channel wants it."""

    def __init__(self, engine: Engine, channel: Channel, early: bytes) -> None:
        self._engine = engine
        self._channel = channel
        self._early = early

    def connection_made(self, transport: Any) -> None:
        channel = self._channel
        # Tell us of every byte that is kept; asyncio's TLS takes 0 for "always".
        transport.set_write_buffer_limits(
            high=0 if transport.get_extra_info("sslcontext") is None else 1, low=0
        )
        channel._transport = transport
        channel._heard = time.monotonic()
        channel._corked = True
        channel._opened()
        channel._receive(self._early)
        self._early = b""

    @in_empty_context
    def data_received(self, data: bytes) -> None:
        self._channel._receive(data)

    @in_empty_context
    def eof_received(self) -> bool:
        channel = self._channel
        channel._input_ended = True
        if channel._finishing:
            channel._end_output()
        else:
            channel._input_over()
        return True  # what is left is still sent

    @in_empty_context
    def resume_writing(self) -> None:
        """Everything kept has been sent."""
        channel = self._channel
        channel._heard = time.monotonic()
        channel._look_at_water()
        if channel._tell_when_flushed:
            channel._tell_when_flushed = False
            channel._flushed()

    @in_empty_context
    def connection_lost(self, error: Exception | None) -> None:
        channel = self._channel
        channel._set_deadline(None)
        channel._sendable = False
        channel._transport = None
        channel._outgoing.clear()
        channel._waiting = 0
        self._engine._channels.discard(channel)
        reason = getattr(error, "strerror", None) or str(error or "the connection was dropped")
        channel._connection_lost(reason)
        channel._released()
