"""The pure-Python engine, for systems where the native one cannot be built. It uses asyncio.

It has the same interface as the native engine (`interface`), runs in a background thread or in an
event loop, too, and uses the codec of `protocol`. It is slower, needs more memory per connection,
and has one thread: a listener that blocks delays every connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import select
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
from .interruptions import interrupt_main_greenlet, is_kill, log_intrusion
from .loop_end import LoopEndWatch
from .native_locks import native_rlock
from .running_loop import is_gevent, is_in_event_loop
from .send_state import SendState
from .shutdown import ClosesAll
from .stats import CannotStart, Ledger, Stats, Traffic
from .timeouts import DISCARD_TIMEOUT_S, END_CHECK_INTERVAL_S
from .transport import end_output_of

if TYPE_CHECKING:
    from .interface import ChannelEvents as Events
else:
    Events = object  # `Connection`, which derives from the channel, has them

logger: logging.Logger = logging.getLogger("websocket_handler")


def has_hung_up(descriptor: int) -> bool:
    """Whether the peer of a socket has ended its sending direction or reset the connection. False
    where the system cannot tell without reading."""
    if descriptor < 0 or not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(descriptor, getattr(select, "POLLRDHUP", 0))
    return bool(poll.poll(0))


TLS_BUFFER = 1 << 18
"""Maximum number of bytes that asyncio's TLS buffers."""


READ_SIZE, COMPRESSED_READ = 1 << 13, 1 << 12
"""Bytes to read in one iteration, where asyncio allows to set it, and if they may be compressed:
asyncio reads 256 KiB, and decoding so many small messages would delay all connections."""


@functools.cache
def warn_once() -> None:
    """Log, once, how this engine differs from the native one."""
    logger.warning(
        "websocket_handler uses its pure-Python engine: it is slower than the native one, and a "
        "listener that blocks delays all connections. On Linux, pip builds the native engine if "
        "there is a C compiler; WEBSOCKET_HANDLER_PURE_PYTHON must not be set"
    )


_of_the_parent: list[object] = []
"""The parent's asyncio objects in a forked child. They are kept because their finalizers would
change the parent's epoll set, or close descriptors that have been reused."""


class Engine(ClosesAll):
    """Serves WebSockets that were taken over from HTTP servers.

    Without `loop`, the engine runs an event loop in a background thread, which the first connection
    starts. With a `loop`, it runs in that loop. Listeners must not block in either.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None, threads: int = 32) -> None:
        """`threads` is ignored; it is an argument of the native engine."""
        del threads
        self._is_guest = loop is not None
        self._loop = loop
        self._thread: threading.Thread | None = None
        self._start_lock = threading.Lock()
        self._posting = native_rlock()  # a lock, also held when posted calls begin and end
        self._early_calls: list[Callable[[], object]] = []  # posted before there was a loop
        self._attached: set[Channel] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._sinks: set[asyncio.Transport] = set()
        self._owner: int | None = None
        self._closed = False
        self._has_ended = False  # the thread makes no posted calls any more
        self._ledger: Ledger = Ledger()
        engines.add(self)
        if loop is not None:
            loop.call_soon_threadsafe(self._enter_loop, context=Context())

    @property
    def event_loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that was passed to the engine; None if it runs in a background thread."""
        return self._loop if self._is_guest else None

    @property
    def is_running(self) -> bool:
        """Whether posted calls are made: in a loop always, in a thread after the first connection;
        no longer after `stop()`."""
        return self._loop is not None and not self._closed

    @property
    def is_closed(self) -> bool:
        """Whether the engine was stopped, or has no loop yet; it has no connections then."""
        return self._closed or self._loop is None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of a running engine."""
        assert self._loop is not None
        return self._loop

    def _may_wait(self) -> bool:
        """Whether the calling thread may block: not one with a running event loop."""
        return not is_in_event_loop()

    def _is_own_thread(self) -> bool:
        """Whether the calling thread is that of the event loop."""
        return self._owner == threading.get_ident()

    def _adopt_thread(self) -> None:
        """Make the calling thread the engine's: that of its event loop."""
        self._owner = threading.get_ident()

    def _enter_loop(self) -> None:
        self._adopt_thread()
        self._loop_end = LoopEndWatch(self)  # type: ignore[arg-type]

    def _post(self, call: Callable[[], object]) -> None:
        """Make `call()` soon in the engine's thread, or once that is started. Thread-safe. If the
        engine is closed, makes it at once in the calling thread."""
        with self._posting:
            if self._loop is None and not self._closed:
                self._early_calls.append(call)
                return
            if self._can_post:
                self._call_soon(self._make, call)
                return
        call()

    def _call_soon(self, call: Callable[..., object], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            self.loop.call_soon_threadsafe(call, *arguments, context=Context())

    def _make(self, call: Callable[[], object]) -> None:
        """Make a posted call. The loop would end if it raised a `SystemExit`."""
        try:
            call()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                self._interrupt(error)
            logger.error("a call posted to the engine failed: %r", call, exc_info=error)

    @property
    def _can_post(self) -> bool:
        return self._loop is not None and not (self._has_ended or self._loop.is_closed())

    def _call_later(self, delay: float, call: Callable[[], object]) -> None:
        """Make `call()` in the engine's thread after `delay` seconds. Thread-safe. The engine drops
        the call if it is closed before."""
        self._start()
        self._post(lambda: self.loop.call_later(delay, self._make, call, context=Context()))

    def _interrupt(self, error: BaseException) -> None:
        """Raise `error`, a `KeyboardInterrupt` or `SystemExit` of a listener or call, in the loop
        that was passed to the engine, after the present callback; under gevent a
        `KeyboardInterrupt` reaches the main greenlet. A background thread ignores it."""
        if self._is_guest:
            self._call_soon(_raise, error)
        elif isinstance(error, KeyboardInterrupt) and is_gevent():
            interrupt_main_greenlet(error)

    @property
    def listener_takeovers(self) -> int:
        """The number of takeovers by another thread: always 0."""
        return 0

    def stats(self) -> Stats:
        """Return counters of all that the engine has done so far. Thread-safe."""
        return self._ledger.stats(self._channels(), self.listener_takeovers)

    def _attach(self, channel: Channel, sock: socket.socket, early: bytes = b"") -> None:
        """Attach a connected socket, with the `early` bytes already read from it. Thread-safe.

        Detaches `sock`. Raises `RuntimeError` if the engine is closed.
        """
        self._start()
        sock.setblocking(False)
        channel._engine = self
        own = socket.socket(fileno=sock.detach())
        self._attached.add(channel)
        lost = functools.partial(self._lose_unattached, channel, own)
        self._connect(lambda: _TransportProtocol(self, channel, early), own, lost)

    @in_empty_context
    def _attach_transport(
        self, channel: Channel, transport: asyncio.Transport, early: bytes = b""
    ) -> None:
        """Attach an asyncio transport, with the `early` bytes already read from it.

        The engine must run in the transport's loop, and this must be called in its thread.
        """
        self._start()
        channel._engine = self
        self._attached.add(channel)
        protocol = _TransportProtocol(self, channel, early)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if not channel._reading_paused:
            transport.resume_reading()
        if transport.is_closing():  # the former protocol may have received `connection_lost`
            self._post(lambda: protocol.connection_lost(None))

    def _discard(self, sock: socket.socket) -> None:
        """Take over a socket and discard its input until the peer closes it, at most for
        `DISCARD_TIMEOUT_S` after the first bytes."""
        self._start()
        sock.setblocking(False)
        own = socket.socket(fileno=sock.detach())
        self._connect(lambda: _Sink(self._sinks), own, own.close)

    def _channels(self) -> list[Any]:
        """Return every attached channel."""
        return list(self._attached)

    def stop(self, timeout: float | None = None) -> None:
        """Drop every connection and stop the engine. Thread-safe. `close_all` closes gracefully.

        Waits up to `timeout` seconds (None: no limit) for the engine's thread, in which a listener
        may still run. Does not wait if the engine runs in an event loop that was passed to it, nor
        in a listener or another callback of the engine.
        """
        with self._posting:
            is_first, self._closed = not self._closed, True
        if self._is_guest:
            self._post(self.close)
        elif self._thread is not None and self._loop is not None:
            if is_first:
                self._post(self._loop.stop)
            if not self._is_own_thread():
                self._thread.join(timeout)

    def close(self) -> None:
        """Drop every connection. In the engine's thread only."""
        for channel in self._channels():
            channel._drop("the engine was closed")
        for sink in tuple(self._sinks):
            sink.abort()
        for task in tuple(self._tasks):  # sockets that are being attached
            task.cancel()

    def forget_after_fork(self) -> None:
        """In a forked child: forget the parent's connections, without calls or messages.

        An engine with a thread, or in a loop that has not run yet, starts again when it is needed.
        A loop that has run belongs to the parent: its engine is stopped here.
        """
        _of_the_parent.append((self._loop, self._tasks, self._attached, self._sinks))
        for channel in self._attached:
            channel._abandon()
        self._attached, self._tasks, self._sinks = set(), set(), set()
        if self._is_guest:
            self._closed = self._closed or self._owner is not None
        elif self._loop is not None:
            self._loop.stop()  # else it would continue here, if its own thread has forked
            self._loop = self._thread = None
        self._owner = None
        self._start_lock = threading.Lock()
        self._posting = native_rlock()
        self._ledger = Ledger()

    def _start(self) -> None:
        if not self._try_to_start():
            raise RuntimeError("the engine is closed") if self._closed else CannotStart

    def _try_to_start(self) -> bool:
        """Start the thread if there is none. Returns whether the engine can serve another
        connection: False if it was stopped, or if the system has no threads or descriptors left."""
        if self._closed:
            return False
        warn_once()
        with self._start_lock:
            if self._loop is None:
                self._start_thread()
            return self._loop is not None

    def _start_thread(self) -> None:
        try:
            loop = asyncio.new_event_loop()
        except OSError:  # no descriptors are left
            return
        if not self._run_in_thread(loop):
            loop.close()
            return
        with self._posting:
            self._loop = loop
            for call in self._early_calls:
                self._call_soon(self._make, call)
            self._early_calls.clear()
            if self._closed:  # stopped meanwhile
                loop.call_soon_threadsafe(loop.stop)

    def _run_in_thread(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Start the thread that runs the loop. Returns False if the system cannot."""
        before = self._thread
        try:
            self._thread = threading.Thread(
                target=self._run, args=(loop,), name="websocket-engine", daemon=True
            )
            self._thread.start()
        except (RuntimeError, MemoryError):  # too many threads, or no memory for one
            self._thread = before
            return False
        return True

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        self._adopt_thread()
        process = os.getpid()
        asyncio.set_event_loop(loop)
        is_over = self._run_until_stopped(loop)
        if not is_over or os.getpid() != process:  # a listener has forked, and this is the child
            return
        with self._posting:
            self._has_ended = True
        loop.run_until_complete(asyncio.sleep(0))  # for the last posted calls
        attaching = tuple(self._tasks)  # a copy: the tasks remove themselves from the set
        if attaching:
            loop.run_until_complete(asyncio.wait(attaching))
        self.close()
        loop.run_until_complete(asyncio.sleep(0))  # for the last callbacks of the transports
        loop.close()
        self._owner = None

    def _run_until_stopped(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Run the loop until `stop`. It goes on if one of its callbacks raises what ends a loop;
        under gevent, Ctrl-C may be raised in any of them. Returns False if this greenlet was
        killed, and another one runs the loop."""
        while True:
            try:
                loop.run_forever()
                return True
            except (KeyboardInterrupt, SystemExit) as error:
                self._interrupt(error)
            except BaseException as error:  # thrown into this thread or greenlet
                if is_kill(error) and self._run_in_thread(loop):
                    return False
                log_intrusion(error)

    def _connect(
        self,
        protocol: Callable[[], asyncio.BaseProtocol],
        sock: socket.socket,
        lost: Callable[[], object],
    ) -> None:
        """Give a socket to the event loop. Calls `lost` if the engine ends before."""

        def begin() -> None:
            if self.loop.is_closed() or (self._has_ended and not self._is_own_thread()):
                lost()
                return
            task = self.loop.create_task(self.loop.connect_accepted_socket(protocol, sock))
            self._tasks.add(task)
            task.add_done_callback(finish)

        def finish(task: asyncio.Task[Any]) -> None:
            self._tasks.discard(task)
            if task.cancelled() or task.exception() is not None:
                lost()

        self._post(begin)

    def _lose_unattached(self, channel: Channel, sock: socket.socket) -> None:
        """The engine has ended while the socket was being attached."""
        if channel._transport is None and channel in self._attached:
            sock.close()
            self._lose(channel, "the engine was closed")

    def _lose(self, channel: Channel, reason: str) -> None:
        """The connection of `channel` has ended."""
        channel._send_state = SendState.ENDED
        channel._discard_output()
        self._attached.discard(channel)
        channel._connection_lost(reason)
        channel._released()


def _raise(error: BaseException) -> None:
    raise error


def fan_out(
    members: tuple[Any, ...], message: PreparedMessage, excluded: Container[Any] = ()
) -> tuple[int, list[Any]]:
    """Return every member that is not excluded: here, no channel has a codec to send with. See the
    native `fan_out`."""
    del message
    return 0, [member for member in members if member not in excluded]


class Channel(Events):
    """Sends and receives the bytes of one connection; base class of `WebSocket`."""

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
        "_input_ended",
        "_is_client",
        "_last_activity",
        "_latency",
        "_limits",
        "_message_listener",
        "_outgoing",
        "_output_lock",
        "_packed_request",
        "_paused",
        "_reading_paused",
        "_send_state",
        "_taken_over",
        "_tell_when_flushed",
        "_timer",
        "_traffic",
        "_transport",
        "_waiting",
    )

    _engine: Engine | None
    _transport: asyncio.Transport | None
    _timer: asyncio.TimerHandle | None
    _message_listener: Callable[[Any], object] | None
    _after_messages: Callable[[], object] | None
    _packed_request: bytes | None
    _outgoing: list[bytes]
    _waiting: int  # bytes in `_outgoing`
    _output_lock: (
        Any  # a lock, held while the unsent bytes are counted, move or change `_above_water`
    )
    _above_water: bool
    _drain_due: bool
    _send_state: int
    _discard_input: bool
    _taken_over: bool
    _paused: bool
    _latency: float
    _corked: bool
    _tell_when_flushed: bool
    _finishing: bool
    _input_ended: bool
    _reading_paused: bool
    _traffic: Traffic
    _controls: int  # control frames received in the second that began at `_controls_since`
    _controls_since: float
    _is_client: bool  # reads even above high water: see `is_reading_paused` in channel.pyx

    def __new__(cls, *_: object, **__: object) -> Channel:
        self = super().__new__(cls)
        self._engine = self._transport = self._timer = self._message_listener = None
        self._after_messages = self._packed_request = None
        self._send_state = SendState.INDIRECT
        self._discard_input = self._corked = self._tell_when_flushed = False
        self._finishing = self._input_ended = self._reading_paused = False
        self._above_water = self._drain_due = self._is_client = False
        self._taken_over = self._paused = False
        self._latency = -1.0
        self._outgoing = []
        self._waiting = 0
        self._traffic = Traffic()
        self._controls, self._controls_since = 0, 0.0
        self._output_lock = native_rlock()
        self._last_activity = time.monotonic()
        return self

    _end_check: asyncio.TimerHandle | None = None  # until `_look_for_end`, while reading is paused
    _reads_compressed = False  # permessage-deflate was negotiated
    _has_hung_up = False  # the peer has ended the connection while reading was paused
    _is_busy: ClassVar[bool] = False  # a listener that blocks, blocks the whole loop
    has_codec: ClassVar[bool] = False
    has_deflate: ClassVar[bool] = False

    def _bind(
        self,
        engine: Engine,
        settings: Settings,
        version: Version,  # noqa: ARG002
        client: bool,
        python_codec: bool,  # noqa: ARG002
        agreed: EndpointParameters | None,
    ) -> None:
        if agreed is not None:
            self._reads_compressed = True
        self._engine = engine
        self._limits = settings
        self._is_client = client

    # sending

    def send(
        self, message: Any, compress: bool | None = None, timeout: float | None = None
    ) -> None:
        """Send a message. Thread-safe.

        `message` is a str (sent as text), a bytes-like object (sent as binary), or an iterable
        of str or of bytes-like objects: one message with a fragment per item. Called from an event
        loop, `send` never blocks. From another thread it blocks, at most `timeout` seconds, while
        more than `Settings.high_water` bytes are unsent. Behaves like the native `Channel.send`,
        which documents the details.

        Raises `ConnectionClosed` if the connection is not open, `TimeoutError` if the send buffer
        did not drain in time, `TypeError` for any other `message`.
        """
        self._send_slow_path(message, compress, timeout)

    @property
    def buffered_amount(self) -> int:
        """Bytes accepted by `send` that the operating system has not accepted yet."""
        return self._kept()

    def _kept(self) -> int:
        """Return the bytes in the send buffers of this channel and of the transport."""
        with self._output_lock:
            transport = self._transport
            return self._waiting + (transport.get_write_buffer_size() if transport else 0)

    @property
    def _blocked(self) -> bool:
        return bool(self._transport and self._transport.get_write_buffer_size())

    @property
    def _descriptor(self) -> int:
        """The descriptor of the socket, -1 if there is none."""
        sock = self._transport.get_extra_info("socket") if self._transport else None
        return -1 if sock is None else int(sock.fileno())

    @property
    def _hidden_buffer(self) -> int:
        """Maximum number of bytes in a buffer that is not counted: that of asyncio's TLS."""
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
        """Count a received control frame. Returns whether there were too many in this second."""
        if self._last_activity - self._controls_since >= 1:
            self._controls, self._controls_since = 0, self._last_activity
        self._controls += 1
        return self._controls > self._limits.max_control_frames

    def _write(self, data: bytes) -> None:
        with self._output_lock:
            self._outgoing.append(data)
            self._waiting += len(data)
            if self._kept() > self._limits.high_water:
                self._above_water = True
        if self._transport is None or self._engine is None:
            return
        if not self._engine._is_own_thread():
            self._engine._post(self._flush)
        elif self._waiting > self._limits.high_water:
            self._flush()
        elif not self._corked:  # frames of one iteration of the loop are sent together
            self._corked = True
            self._engine.loop.call_soon(self._uncork, context=Context())

    def _prepend(self, data: bytes) -> None:
        """Insert bytes at the start of the send buffer. Before the engine has the socket."""
        with self._output_lock:
            self._outgoing.insert(0, data)
            self._waiting += len(data)

    def _discard_output(self) -> None:
        """Discard the send buffer. Before the engine has the socket, or after its end."""
        with self._output_lock:
            self._outgoing.clear()
            self._waiting = 0

    def _write_message(
        self, message: str | bytes, compress: bool | None, held: bool = False
    ) -> bool:
        raise NotImplementedError  # the connection has a codec in Python

    def _stop_sending(self, state: int) -> None:
        raise NotImplementedError  # the channel never sends by itself

    def _write_frame(self, opcode: int, payload: bytes, fin: bool = True) -> bool:
        raise NotImplementedError  # the connection has a codec in Python

    def _uncork(self) -> None:
        self._corked = False
        self._flush()

    def _flush(self) -> None:
        """Send the buffered data in one call."""
        if self._transport is None:
            return
        with self._output_lock:
            data = b"".join(self._outgoing)
            self._outgoing = []
            if data and not self._transport.is_closing():
                self._traffic += Traffic(bytes_sent=len(data))
                self._transport.write(data)
            self._waiting -= len(data)
        if self._finishing:
            self._end_output()
        else:
            self._look_at_water()

    def _look_at_water(self) -> None:
        """Pause reading above high water; resume it and emit `drain` when a quarter is left."""
        transport = self._transport
        if not self._above_water or transport is None or transport.is_closing():
            return
        with self._output_lock:  # another thread may be sending
            left = self._kept()
            self._above_water = left > self._limits.high_water // 4
        if left > self._limits.high_water:
            if not self._is_client:
                transport.pause_reading()
        elif not self._above_water:
            self._resume_after_drain()

    def _resume_after_drain(self) -> None:
        assert self._engine is not None
        self._pause_reading(self._reading_paused)
        if not self._drain_due:  # posted: `drain` must not interrupt a listener that sends
            self._drain_due = True
            self._engine._post(self._emit_drained)

    def _pause_reading(self, paused: bool) -> None:
        """Pause or resume reading. In the engine's thread only."""
        self._reading_paused = paused
        if self._transport is None or self._transport.is_closing():
            return
        if (paused and not self._has_hung_up) or (self._above_water and not self._is_client):
            self._transport.pause_reading()
            self._look_for_end_later()
        else:
            self._transport.resume_reading()

    def _look_for_end_later(self) -> None:
        if self._end_check is None and self._engine is not None:
            self._end_check = self._engine.loop.call_later(
                END_CHECK_INTERVAL_S, self._look_for_end, context=Context()
            )

    def _look_for_end(self) -> None:
        """While reading is paused, asyncio does not notice that the peer ends the connection. If it
        has, read its last bytes, at most `max_buffered`, and the end."""
        self._end_check = None
        transport = self._transport
        if transport is None or transport.is_closing() or transport.is_reading():
            return
        self._has_hung_up = self._has_hung_up or has_hung_up(self._descriptor)
        if not self._has_hung_up:
            self._look_for_end_later()
        elif not self._drop_if_overrun():
            transport.resume_reading()

    def _drop_if_overrun(self) -> bool:
        """Drop the connection if the peer has ended it, reading is paused, and more than
        `max_buffered` bytes of messages wait for the application."""
        is_overrun = self._has_hung_up and self._reading_paused and self._is_overrun()
        if is_overrun:
            self._drop("the peer has disconnected, with too much unread data")
        return is_overrun

    def _run_exclusively(self, call: Callable[[], object]) -> None:
        """Make a call that may run listeners: at once, since all run in one thread."""
        call()

    def _emit_drained(self) -> None:
        self._drain_due = False
        if not self._above_water:  # else more was sent, and another `drain` will follow
            self._drained()

    # receiving

    def _receive(self, data: bytes) -> None:
        self._last_activity = time.monotonic()
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
        self._drop_if_overrun()

    # ending

    def _finish(self) -> None:
        self._finishing = self._discard_input = True
        self._send_state = SendState.ENDED
        if not self._corked:
            self._flush()

    def _end_output(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self._input_ended or not self._transport.can_write_eof():
            self._transport.close()
        else:
            end_output_of(self._transport)

    def _drop(self, reason: str) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._connection_lost(reason)

    def _abandon(self) -> None:
        """In a forked child: close this process's copy of the socket, without messages."""
        if self._transport is not None:
            with contextlib.suppress(OSError):
                os.close(self._transport.get_extra_info("socket").fileno())
        self._transport = self._timer = None
        self._send_state = SendState.ENDED
        self._discard_input = True
        self._output_lock = native_rlock()
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

    def _advance(self, seconds: float) -> float | None:
        """Act as if this many seconds had passed: see the native `Channel._advance`."""
        self._last_activity -= seconds
        self._controls_since -= seconds
        if self._timer is None or self._engine is None:
            return None
        left = self._timer.when() - self._engine.loop.time() - seconds
        self._set_deadline(left)
        return left


class _TransportProtocol(asyncio.Protocol):
    """The asyncio protocol that passes the events of a transport to a channel."""

    def __init__(self, engine: Engine, channel: Channel, early: bytes) -> None:
        self._engine = engine
        self._channel = channel
        self._early = early

    def connection_made(self, transport: Any) -> None:
        channel = self._channel
        # `resume_writing` is called whenever the buffer becomes empty. A high limit of 0 would mean
        # "always paused" to asyncio's TLS.
        transport.set_write_buffer_limits(
            high=0 if transport.get_extra_info("sslcontext") is None else 1, low=0
        )
        if hasattr(transport, "max_size"):  # asyncio's own transports of sockets have it
            transport.max_size = COMPRESSED_READ if channel._reads_compressed else READ_SIZE
        channel._transport = transport
        channel._last_activity = time.monotonic()
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
        channel._input_over()
        if channel._finishing:
            channel._end_output()
        return True  # the transport stays open to send the buffered data

    @in_empty_context
    def resume_writing(self) -> None:
        """The transport has sent everything in its buffer."""
        channel = self._channel
        channel._last_activity = time.monotonic()
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
        if channel._end_check is not None:
            channel._end_check.cancel()
        channel._transport.abort()  # Python 3.10 warns of a TLS transport that was not closed
        channel._transport = None
        reason = getattr(error, "strerror", None) or str(error or "the connection was dropped")
        self._engine._lose(channel, reason)


class _Sink(asyncio.Protocol):
    """Discards the input of a connection that the engine does not serve, until its end, at most
    for `DISCARD_TIMEOUT_S` after the first bytes."""

    _transport: asyncio.Transport
    _timer: asyncio.TimerHandle | None = None

    def __init__(self, sinks: set[asyncio.Transport]) -> None:
        self._sinks = sinks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._sinks.add(transport)

    def data_received(self, data: bytes) -> None:
        del data
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(DISCARD_TIMEOUT_S, self._transport.abort)

    def connection_lost(self, error: Exception | None) -> None:
        del error
        if self._timer is not None:
            self._timer.cancel()
        self._sinks.discard(self._transport)
