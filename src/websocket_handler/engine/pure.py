"""The engine in plain Python, for where the native one cannot be: asyncio carries the bytes.

It has the interface of the native engine (`interface`) and the same two homes, and uses the
codec of `protocol`. It is slower, takes a few objects a connection, and has one thread: a
listener that blocks holds up every connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Container
from contextvars import Context
from typing import TYPE_CHECKING, Any, ClassVar

from ..protocol.permessage_deflate import EndpointParameters
from ..protocol.prepared import PreparedMessage
from ..protocol.versions import Version
from ..settings import Settings
from .empty_context import in_empty_context
from .forks import engines
from .native_locks import native_lock
from .shutdown import ClosesAll
from .stats import Ledger, NoThread, Stats, Traffic

if TYPE_CHECKING:
    from .interface import ChannelEvents as Events
else:
    Events = object  # a WebSocket, which derives from the channel, has them

logger = logging.getLogger("websocket_handler")

TLS_BUFFER = 1 << 18
"""Bytes that asyncio's TLS keeps at most before it takes no more."""


@functools.cache
def warn_once() -> None:
    """Say what differs from the native engine, before it is felt."""
    logger.warning(
        "the engine of websocket_handler is the one in plain Python: it is slower than the native "
        "one, and a listener that blocks holds up all connections. The native one is built where "
        "pip finds a C compiler, on Linux, unless WEBSOCKET_HANDLER_PURE_PYTHON is set"
    )


_of_the_parent: list[object] = []
"""What a forked child has of its parent: kept, as what asyncio does when it is collected as
garbage would touch the parent's epoll set, or close descriptors that are others' by then."""


class Engine(ClosesAll):
    """Serves WebSockets that were taken over from HTTP servers.

    Without `loop`, an event loop in a background thread does it, started with the first
    connection. With a `loop`, listeners run in that loop. In neither may they block.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None, threads: int = 32) -> None:
        """`threads` is for the native engine, which goes on in others while listeners block."""
        del threads
        self._is_guest = loop is not None
        self._loop = loop
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._early_calls: list[Callable[[], object]] = []  # posted before there was a loop
        self._channels: set[Channel] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._owner: int | None = None
        self._closed = False
        self.ledger = Ledger()
        engines.add(self)
        if loop is not None:
            loop.call_soon_threadsafe(self.adopt_thread)

    @property
    def event_loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that the engine lives in, None for a thread of its own."""
        return self._loop if self._is_guest else None

    @property
    def is_running(self) -> bool:
        """Whether anyone serves what is posted: a thread from the first connection on."""
        return self._loop is not None and not self._closed

    @property
    def is_closed(self) -> bool:
        """Whether it has no loop: then it has no connections either."""
        return self._closed or self._loop is None

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
        """Have `call()` made in the engine's thread, soon, or once there is one. Safe from any
        thread. Once the engine is closed it has no thread any more: the call is made here."""
        if self._loop is None and not self._closed:
            with self._starting:
                if self._loop is None:
                    self._early_calls.append(call)
                    return
        if self._loop is None or self._loop.is_closed():
            call()
            return
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            self._loop.call_soon_threadsafe(call, context=Context())

    def interrupt(self, error: BaseException) -> None:
        """Pass on what is meant for the program and not for us: Ctrl-C, exit."""
        if self._is_guest:
            raise error

    @property
    def listener_takeovers(self) -> int:
        """How often another thread went on where a listener blocked: never."""
        return 0

    def stats(self) -> Stats:
        """An account of what happened so far; from any thread."""
        return self.ledger.stats(self.channels(), self.listener_takeovers)

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
        self._start()
        channel._engine = self
        self._channels.add(channel)
        carrier = _Carrier(self, channel, early)
        transport.set_protocol(carrier)
        carrier.connection_made(transport)
        if not channel._reading_paused:
            transport.resume_reading()
        if transport.is_closing():  # then it may have said so already, to the protocol before
            self.post(lambda: carrier.connection_lost(None))

    def discard(self, sock: socket.socket) -> None:
        """Take a socket over to throw away what arrives on it, until its end."""
        self._start()
        sock.setblocking(False)
        self._connect(asyncio.Protocol, socket.socket(fileno=sock.detach()))

    def channels(self) -> list[Any]:
        """Every attached channel."""
        return list(self._channels)

    def stop(self, timeout: float | None = None) -> None:
        """Drop every connection and leave the home. `close_all` closes them with a close frame.

        Waits up to `timeout` seconds for a listener that is still running in the thread. From
        a listener, or any other callback of the engine: that comes to its end first.
        """
        self._closed = True
        if self._is_guest:
            self.post(self.close)
        elif self._thread is not None and self._loop is not None:
            self.post(self._loop.stop)
            if not self.is_own_thread():
                self._thread.join(timeout)

    def close(self) -> None:
        """Drop every connection as it is. In the engine's thread."""
        for channel in self.channels():
            channel._drop("the engine was closed")

    def forget_after_fork(self) -> None:
        """In a forked child: let go of what belongs to the parent, without a word to anyone.
        With a thread, or in a loop that has not run yet, the engine begins anew when it is
        needed; a loop that has run is the parent's, and the engine over with it."""
        _of_the_parent.append((self._loop, self._tasks, self._channels))
        for channel in self._channels:
            channel._abandon()
        self._channels, self._tasks = set(), set()
        if self._is_guest:
            self._closed = self._closed or self._owner is not None
        elif self._loop is not None:
            self._loop.stop()  # or it would go on in here, if it is its thread that has forked
            self._loop = self._thread = None
        self._owner = None
        self._starting = threading.Lock()
        self.ledger = Ledger()

    def _start(self) -> None:
        if not self.try_to_start():
            raise RuntimeError("the engine is closed") if self._closed else NoThread

    def try_to_start(self) -> bool:
        """Start the thread if there is none yet. Returns whether the engine can serve another
        connection: not once it was stopped, nor if there can be no thread, for now."""
        if self._closed:
            return False
        warn_once()
        with self._starting:
            if self._loop is None:
                self._start_thread()
            return self._loop is not None

    def _start_thread(self) -> None:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(
            target=self._run, args=(loop,), name="websocket-engine", daemon=True
        )
        self._thread = thread
        try:
            thread.start()
        except (RuntimeError, MemoryError):  # too many, or no memory for its stack
            self._thread = None
            loop.close()
            return
        for call in self._early_calls:
            loop.call_soon_threadsafe(call, context=Context())
        self._early_calls.clear()
        self._loop = loop

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        self.adopt_thread()
        process = os.getpid()
        asyncio.set_event_loop(loop)
        loop.run_forever()
        if os.getpid() != process:  # a listener has forked, and this is the child
            return
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


class Channel(Events):
    """One connection's bytes: what `WebSocket` is made of."""

    __slots__ = (
        "_above_water",
        "_after_messages",
        "_controls",
        "_controls_since",
        "_corked",
        "_discard_input",
        "_drain_due",
        "_engine",
        "_finishing",
        "_fragmenting",
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
    _discard_input: bool
    _taken_over: bool
    _paused: bool
    _latency: float
    _corked: bool
    _tell_when_flushed: bool
    _finishing: bool
    _fragmenting: bool
    _input_ended: bool
    _reading_paused: bool
    _traffic: Traffic
    _controls: int  # so many control frames came in the second that began at
    _controls_since: float
    _is_client: bool  # who goes on reading while its peer is behind: see `is_reading_paused`

    def __new__(cls, *_: object, **__: object) -> Channel:
        self = super().__new__(cls)
        self._engine = self._transport = self._timer = self._message_listener = None
        self._after_messages = None
        self._sendable = self._discard_input = self._corked = self._tell_when_flushed = False
        self._finishing = self._input_ended = self._reading_paused = False
        self._above_water = self._drain_due = self._is_client = False
        self._taken_over = self._paused = self._fragmenting = False
        self._latency = -1.0
        self._outgoing = []
        self._waiting = 0
        self._traffic = Traffic()
        self._controls, self._controls_since = 0, 0.0
        self._unsent = native_lock()
        self._heard = time.monotonic()
        return self

    _is_busy: ClassVar[bool] = False  # whoever blocks the loop blocks everything
    has_codec: ClassVar[bool] = False
    has_deflate: ClassVar[bool] = False

    def _bind(
        self,
        engine: Engine,
        settings: Settings,
        version: Version,  # noqa: ARG002
        client: bool,
        python_codec: bool,  # noqa: ARG002
        agreed: EndpointParameters | None,  # noqa: ARG002
    ) -> None:
        self._engine = engine
        self._limits = settings
        self._is_client = client

    # sending

    def send(
        self, message: Any, compress: bool | None = None, timeout: float | None = None
    ) -> None:
        """Send a message: text for `str`, binary for bytes-like, fragments for an iterable.

        See the native engine's `Channel.send`, whose twin this is.
        """
        self._send_slow_path(message, compress, timeout)

    @property
    def buffered_amount(self) -> int:
        """The bytes accepted by `send` that the operating system has not taken yet."""
        return self._kept()

    def _kept(self) -> int:
        """The bytes that wait here and in the transport."""
        kept = self._transport.get_write_buffer_size() if self._transport else 0
        return kept + self._waiting

    @property
    def _blocked(self) -> bool:
        return bool(self._transport and self._transport.get_write_buffer_size())

    @property
    def _descriptor(self) -> int:
        """The socket's descriptor, -1 if there is none."""
        sock = self._transport.get_extra_info("socket") if self._transport else None
        return -1 if sock is None else int(sock.fileno())

    @property
    def _hidden_buffer(self) -> int:
        """The most bytes that may wait where nobody counts them: beneath asyncio's TLS."""
        transport = self._transport
        is_tls = transport is not None and transport.get_extra_info("sslcontext") is not None
        return TLS_BUFFER if is_tls else 0

    def _counts(self) -> Traffic:
        return self._traffic

    def _count(
        self, messages_received: int = 0, messages_sent: int = 0, frames_sent: int = 0
    ) -> None:
        self._traffic += Traffic(messages_received, messages_sent, frames_sent=frames_sent)

    def _count_control_frame(self) -> bool:
        """Count one more control frame; whether there are too many in this second."""
        if self._heard - self._controls_since >= 1:
            self._controls, self._controls_since = 0, self._heard
        self._controls += 1
        return self._controls > self._limits.max_control_frames

    def _write(self, data: bytes) -> None:
        with self._unsent:
            self._outgoing.append(data)
            self._waiting += len(data)
        if self._kept() > self._limits.high_water:
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

    def _prepend(self, data: bytes) -> None:
        """Put bytes before all that waits to be sent. Before the engine has the socket."""
        with self._unsent:
            self._outgoing.insert(0, data)
            self._waiting += len(data)

    def _discard_output(self) -> None:
        """Forget all that waits to be sent. Before the engine has the socket."""
        with self._unsent:
            self._outgoing.clear()
            self._waiting = 0

    def _write_message(
        self, message: str | bytes, compress: bool | None, held: bool = False
    ) -> bool:
        raise NotImplementedError  # the codec is elsewhere

    def _stop_sending(self) -> None:
        raise NotImplementedError  # it has never begun

    def _write_frame(self, opcode: int, payload: bytes, fin: bool = True) -> bool:
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
            self._traffic += Traffic(bytes_sent=len(data))
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
                self._engine.post(self._emit_drained)

    def _pause_reading(self, paused: bool) -> None:
        """Read nothing more, or go on. In the engine's thread only."""
        self._reading_paused = paused
        if self._transport is None or self._transport.is_closing():
            return
        if paused or (self._above_water and not self._is_client):
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _run_exclusively(self, call: Callable[[], object]) -> None:
        """Make a call that may run listeners: here they all run in one thread."""
        call()

    def _emit_drained(self) -> None:
        self._drain_due = False
        if not self._above_water:  # or the listener went on sending, and there will be another
            self._drained()

    # receiving

    def _receive(self, data: bytes) -> None:
        self._heard = time.monotonic()
        self._traffic += Traffic(bytes_received=len(data))
        self._corked = True
        if not self._discard_input:
            try:
                self._feed(data)
            except Exception as error:
                self._input_lost(error)
        if self._after_messages is not None:
            try:
                self._after_messages()
            except BaseException as error:
                self._failed(error)
        self._uncork()

    # ending

    def _finish(self) -> None:
        self._finishing = self._discard_input = True
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

    def _abandon(self) -> None:
        """In a forked child: close this copy of the socket, without a word to the peer."""
        if self._transport is not None:
            with contextlib.suppress(OSError):
                os.close(self._transport.get_extra_info("socket").fileno())
        self._transport = self._timer = None
        self._sendable = False
        self._discard_input = True
        self._unsent = threading.Lock()
        self._outgoing = []
        self._waiting = 0
        self._abandoned()

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
        if channel._transport is None:
            return
        channel._set_deadline(None)
        channel._sendable = False
        channel._transport = None
        channel._outgoing.clear()
        channel._waiting = 0
        self._engine._channels.discard(channel)
        reason = getattr(error, "strerror", None) or str(error or "the connection was dropped")
        channel._connection_lost(reason)
        channel._released()
