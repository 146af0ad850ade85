"""The life cycle of a connection: events, pings, the closing handshake, timeouts.

RFC 6455 sections 5.5 and 7. The base classes deliver messages (`receiving.py`) and carry bytes
(`Channel`); the subclasses send (`sending.py`) and have the public API (`WebSocket`). The methods
below "Called by the engine" run in the engine's thread.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import Any

from ..engine import Engine
from ..engine.forks import in_forked_child
from ..engine.native_locks import native_rlock
from ..engine.progress import Progress, progress, unacknowledged
from ..engine.send_state import SendState
from ..engine.stats import Traffic
from ..errors import ConnectionClosed, ProtocolError, WebSocketError
from ..protocol import handshake
from ..protocol import message as framing
from ..protocol.assembly import Close, Completed, Event, Message, Ping, Pong
from ..protocol.close_codes import CloseCode
from ..protocol.deflate import Deflater, Inflater
from ..protocol.frame import Opcode
from ..protocol.permessage_deflate import (
    Compression,
    EndpointParameters,
    NegotiatedParameters,
    endpoint_parameters,
)
from ..protocol.state import State, Step, advance
from ..protocol.versions import Version
from ..protocol.versions.version import Decoder, Encoder
from ..settings import Settings
from .limits import TOO_MANY_CONTROL_FRAMES, exceeded_limit
from .liveness import MIN_RATE, AwaitedPong
from .receiving import ReceivingConnection
from .surroundings import Surroundings

logger: logging.Logger = logging.getLogger("websocket_handler")

CLOCK_STEP = 0.001
"""Seconds: resolution of the clock with which an engine records received data."""

KEEPALIVE = b"keepalive"
"""The payload of keep-alive pings; their pongs are not emitted."""

NORMAL_CLOSE_CODES = (CloseCode.NORMAL_CLOSURE, CloseCode.GOING_AWAY, CloseCode.NO_CODE_RECEIVED)
"""Close codes of a normal end: logged at DEBUG, others at INFO; an iteration over the messages
ends without an error."""

OF_THE_PARENT = Close(
    int(CloseCode.ABNORMAL_CLOSURE), "the connection belongs to the parent process"
)
"""How a connection has ended in a forked child."""


class Codec:
    """The codec in Python, for protocol versions or extensions that the channel's codec lacks."""

    __slots__ = ("decoder", "encoder", "pending_output", "send_lock")

    def __init__(self, decoder: Decoder, encoder: Encoder, holds_output: bool) -> None:
        self.decoder: Decoder = decoder
        self.encoder: Encoder = encoder
        self.send_lock: Any = native_rlock()
        """A lock, held from the last check of the connection's state until a frame is written."""
        self.pending_output: bytearray | None = bytearray() if holds_output else None
        """Frames sent before the handshake is complete, in versions that complete it after the
        response; None otherwise."""

    def compress(self, agreed: EndpointParameters) -> None:
        """Enable permessage-deflate with the negotiated terms."""
        assert isinstance(self.decoder, framing.Decoder)
        assert isinstance(self.encoder, framing.Encoder)
        self.decoder.inflater = Inflater(agreed.inflate_window_bits, agreed.inflate_takeover)
        self.encoder.deflater = Deflater(
            agreed.deflate_window_bits,
            agreed.deflate_takeover,
            agreed.level,
            agreed.memory_level,
            agreed.threshold,
        )


class Connection(ReceivingConnection):
    """A connection with its state, its listeners and the queues of its messages."""

    __slots__ = (
        "__dict__",
        "_listeners",
        "_memberships",
        "_outcome",
        "_pinged",
    )

    # Rarely used attributes are not slots: they are in `__dict__` when set, and cost no memory
    # before. The application may set attributes of its own, too.

    _codec: Codec | None = None
    _pong: bytes | None = None  # payload of the newest ping, answered when the buffer is empty
    _surroundings: Surroundings | None = None
    _unread_pongs = 0  # pings sent while reading was paused: their pongs may arrive at once
    _taken_while_closing: Progress | None = None  # at the last deadline of a slow peer
    _drain_waiters: list[tuple[Callable[[], object], bool]] | None = None
    _postponed: tuple[Callable[[], object], ...] = ()  # calls, until a blocked listener returns
    _output_lost: str | None = None  # the reason, after sending has failed
    _is_arriving = False  # another process has the connection, and is going to move it here
    _traffic_before: Traffic | None = None  # in the process that the connection was moved from

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._state = State.CONNECTING
        self._outcome: handshake.Accepted | handshake.Refused | None = None
        self._listeners: tuple[tuple[str, Callable[..., object]], ...] = ()  # except `message`
        self._inbox = None
        self._pinged: AwaitedPong | None = None
        self._memberships: tuple[Callable[[Connection], object], ...] = ()  # in rooms

    def _start_codec(
        self,
        engine: Engine,
        version: Version,
        secret: bytes = b"",
        client: bool = False,
        negotiated: NegotiatedParameters | None = None,
    ) -> None:
        """Choose the codec for `version` and the negotiated compression, before the first byte."""
        settings, agreed = self._settings, None
        if negotiated is not None and isinstance(settings.compression, Compression):
            agreed = endpoint_parameters(negotiated, settings.compression, client)
        if not (version._is_native and self.has_codec and (agreed is None or self.has_deflate)):
            self._codec = Codec(
                version._make_decoder(settings, not client, secret),
                version._make_encoder(client, secret),
                holds_output=version._has_late_handshake and not client,
            )
            if agreed is not None:
                self._codec.compress(agreed)
        self._bind(engine, settings, version, client, self._codec is not None, agreed)

    def _begin_sending(self) -> None:
        """Enable the channel's fast path of `send` if it has the codec, unless closing already."""
        with self._state_lock:
            if self._codec is None and self._accepts_messages():
                self._send_state = SendState.DIRECT

    @property
    def _version(self) -> Version:
        if isinstance(self._outcome, handshake.Accepted):
            return self._outcome.version
        return self._settings.versions[0]

    @property
    def _counted_address(self) -> str | None:
        """The peer's address, if connections per address are limited."""
        raise NotImplementedError

    @property
    def traffic(self) -> Traffic:
        """The messages, frames and bytes sent and received so far."""
        counts = Traffic(*self._counts())
        if self._codec is not None:
            counts = counts._replace(frames_received=self._codec.decoder.frames)
        return counts if self._traffic_before is None else counts + self._traffic_before

    def _in_engine(self, call: Callable[[], object]) -> None:
        """Make a call that changes the state: in the calling thread before the handover, in the
        engine's thread after it."""
        engine = self._engine
        if engine is None or not self._taken_over or engine._is_own_thread() or engine.is_closed:
            call()
        else:
            engine._post(call)

    def _in_order(self, call: Callable[[], object]) -> None:
        """Like `_in_engine`, for a call that runs listeners: not while another one runs."""
        if self._taken_over:
            self._in_engine(partial(self._run_exclusively, call))
        else:
            call()

    def _check_open(self) -> None:
        if self._outcome is None:
            raise WebSocketError("connect() has not been called")
        if self._state in (State.CLOSING, State.CLOSED):
            raise self._closed_error()
        if self._output_lost is not None:
            raise ConnectionClosed(CloseCode.ABNORMAL_CLOSURE, self._output_lost)

    def _closed_error(self) -> ConnectionClosed:
        return ConnectionClosed(self._close.code, self._close.reason, self._exceeded_limit)

    # Events

    def _emit(self, event: str, *arguments: object) -> None:
        for name, listener in self._listeners:
            if name == event:
                try:
                    Context().run(listener, *arguments)
                except BaseException as error:
                    self._failed(error)

    def _emit_final(self, event: str, *arguments: object) -> None:
        """Like `_emit`, but if a listener raises, the error is only logged."""
        self._call_final(self._listeners, event, *arguments)

    def _call_final(
        self, listeners: tuple[tuple[str, Callable[..., object]], ...], event: str, *args: object
    ) -> None:
        for name, listener in listeners:
            if name == event:
                try:
                    Context().run(listener, *args)
                except BaseException as error:
                    self._interrupt_if_meant(error)
                    if not self._is_own_end(error):
                        with contextlib.suppress(Exception):  # of a handler of logging
                            logger.exception("%r: a listener of %r raised", self, event)
                        if self._engine is not None:
                            self._engine._ledger.observe_error(error)

    def _interrupt_if_meant(self, error: BaseException) -> None:
        """Pass an error that is meant for the process, such as Ctrl-C, to the engine."""
        if isinstance(error, KeyboardInterrupt | SystemExit) and self._engine is not None:
            self._engine._interrupt(error)

    # Rooms

    def _add_membership(self, leave: Callable[[Connection], object]) -> None:
        """Call `leave` with this connection when it is closed, before its `close` listeners; or
        now if it is closed already."""
        if self._state is State.CLOSED or isinstance(self._outcome, handshake.Refused):
            leave(self)
        else:
            self._memberships = (*self._memberships, leave)

    def _remove_membership(self, leave: Callable[[Connection], object]) -> None:
        self._memberships = tuple(other for other in self._memberships if other != leave)

    # Waiting for the send buffer to drain

    def _on_drained(
        self, notice: Callable[[], object], or_full: bool = False, of_channel: bool = False
    ) -> None:
        """Call `notice` when the send buffer has drained or the connection is closed; now if so.

        With `or_full`, also if reading is paused: the peer may be waiting for us. With
        `of_channel`, messages that have not reached the channel do not count.
        """
        if (
            not (self._above_water if of_channel else self._is_behind())
            or self._state is State.CLOSED
            or (or_full and self._is_reading_paused())
        ):
            notice()
        else:
            self._drain_waiters = [*(self._drain_waiters or ()), (notice, or_full)]

    def _is_behind(self) -> bool:
        """Whether unsent data has exceeded high water and has not drained since."""
        return self._above_water or self._has_too_much_ahead()

    def _has_too_much_ahead(self) -> bool:
        """Whether more than high water waits before it reaches the channel."""
        return self._holds_too_much or self._pending_output > self._settings.high_water

    def _forget_notice(self, notice: Callable[[], object]) -> None:
        """Remove a `notice` whose wait was cancelled or has timed out."""
        if self._drain_waiters is not None:
            left = [pair for pair in self._drain_waiters if pair[0] != notice]
            self._drain_waiters = left or None

    @property
    def _unflushed(self) -> int:
        """Unsent bytes in the channel."""
        return super().buffered_amount

    @property
    def _pending_output(self) -> int:
        """Unsent bytes that wait for the handshake to be complete."""
        return len(self._codec.pending_output or b"") if self._codec is not None else 0

    def _notify_drain_waiters(self, full: bool = False) -> None:
        waiting = self._drain_waiters
        if waiting is None:
            return
        self._drain_waiters = None
        if full:
            self._drain_waiters = [pair for pair in waiting if not pair[1]] or None
        for notice, or_full in waiting:
            if or_full or not full:
                notice()

    # Frames

    def _send_frame(self, opcode: int, payload: bytes, fin: bool = True) -> None:
        if self._codec is None:
            self._write_frame(opcode, payload, fin)
        else:
            with self._codec.send_lock:
                self._write_coded(self._codec.encoder.frame(opcode, payload, fin))

    def _send_close(self, code: int, reason: str) -> None:
        code = dict(self._version._close_codes).get(code, code)
        if self._codec is not None:
            known = None if code == CloseCode.NO_CODE_RECEIVED else code
            with self._codec.send_lock:
                self._write_coded(self._codec.encoder.close(known, reason))
        elif code == CloseCode.NO_CODE_RECEIVED:
            self._write_frame(Opcode.CLOSE, b"")
        else:
            self._write_frame(Opcode.CLOSE, code.to_bytes(2, "big") + reason.encode())

    def _write_coded(self, data: bytes) -> None:
        if isinstance(self._outcome, handshake.Refused):  # another thread has rejected it
            return
        self._count(frames_sent=bool(data))
        if self._codec is None or self._codec.pending_output is None:
            self._write(data)
        else:
            self._codec.pending_output += data

    # Ending

    def _start_closing(self, code: int, reason: str) -> None:
        if isinstance(self._outcome, handshake.Refused) or not self._step(Step.CLOSE_SENT):
            return
        self._send_state = SendState.ENDED
        self._message_listener = None
        self._close = Close(int(code), reason)
        self._set_deadline(self._settings.close_timeout)  # first: sending may find no memory
        self._send_close(code, reason)
        self._pause_reading(False)  # to read the peer's close frame
        if not self._version._has_close:
            self._finish()

    def _try_end(self, step: Step, code: int, reason: str) -> bool:
        """Try to end the connection with `code` and `reason`. Returns False if it has ended, or
        if the step is not possible in this state."""
        if not self._step(step):
            return False
        self._send_state = SendState.ENDED
        self._close = Close(int(code), reason)
        return True

    def _step(self, step: Step) -> bool:
        """Change the state. Returns False if the step is not possible (any more). While a listener
        blocks in another thread, two threads may try to end the connection; one succeeds."""
        with self._state_lock:
            state = advance(self._state, step)
            if state is not None:
                self._state = state
            return state is not None

    def _announce_close(self) -> None:
        if self._engine is not None and isinstance(self._outcome, handshake.Accepted):
            self._engine._ledger.count_closed(self._close.code)
            if not self._taken_over:  # the engine will never release it
                self._engine._ledger.leave(self._counted_address)
        code, reason, _ = self._close
        level = logging.DEBUG if code in NORMAL_CLOSE_CODES else logging.INFO
        self._attempt(logger.log, level, "%r: %d %s", self, code, reason)
        memberships, self._memberships = self._memberships, ()
        for leave in memberships:
            self._attempt(leave, self)
        listeners, self._listeners = self._listeners, ()  # `close` is the last event
        self._message_listener = self._after_messages = None
        self._attempt(self._call_final, listeners, "close", code, reason)
        self._attempt(self._notify_drain_waiters)
        self._end_inbox()

    def _attempt(self, call: Callable[..., object], *arguments: object) -> None:
        """Make one of the calls at the end of the connection. The next ones follow even if it
        raises: listeners of a room and handlers of logging belong to the application."""
        try:
            call(*arguments)
        except BaseException as error:
            self._interrupt_if_meant(error)
            with contextlib.suppress(Exception):  # of a handler of logging
                logger.error("%r: a call at its end failed", self, exc_info=error)

    def _half_close(self) -> None:
        """Send the buffered data and FIN, then wait for the peer's FIN. Closing a socket with
        unread data resets the connection, and our last bytes could be lost."""
        self._set_deadline(self._settings.close_timeout)
        self._finish()

    def _abort(self, reason: str) -> None:
        """Drop the socket if there is one, and end the connection with 1006."""
        self._drop(reason)
        self._connection_lost(reason)

    # Called by the engine

    def _opened(self) -> None:
        """The engine has attached the socket; the HTTP response is in the send buffer."""
        if isinstance(self._outcome, handshake.Refused):
            self._set_deadline(self._settings.close_timeout)
            status, reason = self._outcome.status, self._outcome.reason
            self._connection_lost(f"handshake refused with {int(status)}: {reason}")
        elif self._codec is not None and self._codec.pending_output is not None:
            self._set_deadline(self._settings.open_timeout)
        else:
            self._open()

    def _completed(self, response: bytes) -> None:
        """The handshake is complete: send its `response`, then the withheld frames."""
        assert self._codec is not None
        with self._codec.send_lock:
            pending_output, self._codec.pending_output = self._codec.pending_output, None
            self._write(response + bytes(pending_output or b""))
        self._open()
        if not self._is_behind():
            self._notify_drain_waiters()

    def _open(self) -> None:
        self._step(Step.OPENED)
        self._set_usual_deadline()
        if self._state is State.OPEN:
            self._emit("open")

    def _can_attach_inline(self) -> bool:
        """Whether `_opened` will call no listener and send nothing."""
        return (
            isinstance(self._outcome, handshake.Accepted)
            and self._codec is None
            and all(name != "open" for name, _ in self._listeners)
        )

    def _set_usual_deadline(self) -> None:
        """Set the deadline that belongs to the state."""
        if self._state is State.OPEN:
            self._set_deadline(self._settings.ping_interval if self._version._has_pings else None)
        elif self._state is State.CLOSING:
            self._set_deadline(self._settings.close_timeout)
        elif self._state is State.CLOSED:  # aborted before the engine had the socket
            self._in_engine(partial(self._drop, ""))

    def _feed(self, data: bytes | bytearray) -> None:
        """Decode received data if the connection has a codec in Python."""
        assert self._codec is not None
        for event in self._codec.decoder.feed(data):
            if self._discard_input:
                return
            try:
                self._take_event(event)
            except BaseException as error:
                self._failed(error)

    def _take_event(self, event: Event) -> None:
        if isinstance(event, Message):
            self._count(messages_received=1)
            (self._message_listener or self._queue_unclaimed)(event.data)
        elif isinstance(event, Ping):
            self._ping_received(event.payload)
        elif isinstance(event, Pong):
            self._pong_received(event.payload)
        elif isinstance(event, Close):
            self._close_received(*event)
        elif isinstance(event, Completed):
            self._completed(event.response)
        else:
            self._fail_connection(*event)

    def _ping_received(self, payload: bytes) -> None:
        if self._state is not State.OPEN or self._fail_if_flooded():
            return
        if self._blocked:  # only the newest ping needs an answer (RFC 6455 section 5.5.3)
            self._pong = payload
            self._tell_when_flushed = True
        else:
            self._send_frame(Opcode.PONG, payload)
        self._emit("ping", payload)

    def _pong_received(self, payload: bytes) -> None:
        if self._state is not State.OPEN:
            return
        if self._unread_pongs and payload == KEEPALIVE:
            self._unread_pongs -= 1
        elif self._fail_if_flooded():
            return
        if self._pinged is not None and self._pinged.payload == payload:
            self._latency = time.monotonic() - self._pinged.pinged_at
            self._pinged = None
            self._set_deadline(self._settings.ping_interval)  # it was the longer `ping_timeout`
            assert self._engine is not None
            self._engine._ledger.count_round_trip(self._latency)
        if payload != KEEPALIVE:
            self._emit("pong", payload)

    def _fail_if_flooded(self) -> bool:
        if not self._count_control_frame():
            return False
        self._fail_connection(*TOO_MANY_CONTROL_FRAMES)
        return True

    def _send_ping(self, payload: bytes) -> None:
        if self._pinged is None:  # one pong is awaited at a time
            now = time.monotonic()
            self._pinged = AwaitedPong(payload, now, now, is_delivered=not self.buffered_amount)
        self._send_frame(Opcode.PING, payload)

    def _flushed(self) -> None:
        """The send buffer is empty: send the pong that had to wait."""
        if self._pong is not None and self._state is State.OPEN:
            payload, self._pong = self._pong, None
            self._send_frame(Opcode.PONG, payload)

    def _drained(self) -> None:
        if self._state is State.OPEN:
            self._emit("drain")
        if not self._above_water:
            self._notify_drain_waiters()

    def _close_received(self, code: int, reason: str, cookie: bytes = b"") -> None:
        self._wake_reader()
        for present, former in self._version._close_codes:
            code = present if code == former else code
        if code == CloseCode.MESSAGE_TOO_BIG and self._state is State.OPEN:
            self._exceeded_limit = "a limit of the peer"
        if self._codec is not None:
            initiated = self._state is State.CLOSING
            former = dict(self._version._close_codes).get(code, code)
            close = Close(former, reason, cookie)
            with self._codec.send_lock:
                self._write_coded(self._codec.encoder.answer_close(close, initiated))
        elif self._state is State.OPEN:
            self._send_close(code, reason)
        self._end(Step.CLOSE_RECEIVED, code, reason)

    def _fail_connection(self, code: int, reason: str) -> None:
        """Fail the connection (RFC 6455 section 7.1.7)."""
        limit = exceeded_limit(reason, self._settings)
        if limit and self._accepts_messages():
            self._exceeded_limit = limit
        self._fail(code, reason, ProtocolError(code, reason))

    def _input_lost(self, error: BaseException) -> None:
        """Received data could not be processed, for lack of memory: later data cannot be read."""
        logger.warning("%r: received data could not be processed: %r", self, error)
        self._fail(CloseCode.INTERNAL_ERROR, "internal error", error)

    def _output_failed(self, error: BaseException) -> None:
        """A message to many connections could not be sent on this one, for lack of memory."""
        logger.warning("%r: a message could not be sent: %r", self, error)
        self._emit_final("error", error)
        self._start_closing(CloseCode.INTERNAL_ERROR, "internal error")

    def _fail(self, code: int, reason: str, error: BaseException) -> None:
        """Close because of `error`, without waiting for the peer's close frame."""
        self._wake_reader()
        try:
            if self._state is State.OPEN:
                self._send_close(code, reason)
        finally:
            self._end(Step.LOST, code, reason, error)

    def _wake_reader(self) -> None:
        """Resume a coroutine that reads, so that it can answer messages of this read before the
        connection is closed."""
        if self._after_messages is not None:
            self._after_messages()

    def _input_over(self) -> None:
        if self._output_lost is not None:  # the system reports an error once, then an end
            self._end(Step.LOST, CloseCode.ABNORMAL_CLOSURE, self._output_lost)
        elif self._version._has_close or self._state is State.CONNECTING:
            reason = "the peer ended the connection without closing it"
            self._end(Step.LOST, CloseCode.ABNORMAL_CLOSURE, reason)
        elif self._state is State.CLOSING:
            self._end(Step.CLOSE_RECEIVED, self._close.code, self._close.reason)
        else:
            self._end(Step.CLOSE_RECEIVED, CloseCode.NO_CODE_RECEIVED, "")

    def _end(self, step: Step, code: int, reason: str, error: BaseException | None = None) -> None:
        ended = self._try_end(step, code, reason)
        self._half_close()
        if error is not None:
            self._emit_final("error", error)
        if ended:
            self._announce_close()

    def _failed(self, error: BaseException) -> None:
        """A listener raised, or memory ran out: close this connection with 1011."""
        if self._is_own_end(error):
            logger.debug("%r: a listener used the closed connection: %s", self, error)
            return
        self._interrupt_if_meant(error)
        try:
            with contextlib.suppress(Exception):  # of a handler of logging
                logger.error("%r: a listener raised", self, exc_info=error)
            if self._engine is not None:
                self._engine._ledger.observe_error(error)
            self._emit_final("error", error)
        finally:
            self._start_closing(CloseCode.INTERNAL_ERROR, "internal error")

    def _is_own_end(self, error: BaseException) -> bool:
        """Whether a listener raised because this connection itself has ended meanwhile."""
        if not isinstance(error, ConnectionClosed):
            return False
        if self._state is State.OPEN:  # `send` has raised, and closing is still posted
            if error.reason == self._output_lost:
                return error.code == CloseCode.ABNORMAL_CLOSURE
            return error.code == CloseCode.POLICY_VIOLATION and self._is_hopeless
        return (error.code, error.reason) == (self._close.code, self._close.reason)

    @property
    def _is_hopeless(self) -> bool:
        """Whether more than `max_buffered` bytes are unsent."""
        return self.buffered_amount > self._settings.max_buffered

    def _deadline_passed(self) -> None:
        try:
            self._act_on_deadline()
        except BaseException as error:  # no later deadline is certain to be set
            self._deadline_failed(error)

    def _deadline_failed(self, error: BaseException) -> None:
        """Close with 1011: without a deadline, a silent peer could stay for ever."""
        try:
            logger.error("%r: the check for a time-out failed", self, exc_info=error)
            if self._state is State.OPEN:
                self._fail(CloseCode.INTERNAL_ERROR, "internal error", error)
            else:
                self._abort("internal error")
        except BaseException:
            self._abort("internal error")
        self._interrupt_if_meant(error)

    def _act_on_deadline(self) -> None:
        if self._state is State.OPEN:
            self._keep_alive()
        elif self._state is State.CONNECTING:
            self._abort("the client did not complete the handshake in time")
        elif self._closes_slowly():
            self._set_deadline(self._settings.close_timeout)
        elif self._state is State.CLOSING:
            self._abort("the peer did not answer the close frame in time")
        else:
            self._drop("")

    def _closes_slowly(self) -> bool:
        """Whether the peer still acknowledges the remaining data, at `MIN_RATE` or faster; or has
        acknowledged everything, but cannot be read because a listener blocks."""
        look, last = self._progress(), self._taken_while_closing
        left, expected = look.unacknowledged + self._unflushed, self._expected_while_closing
        if self._is_busy and not left:
            return True
        self._taken_while_closing = look
        if last is None:
            return left > expected
        return left > 0 and look.acknowledged - last.acknowledged >= expected

    @property
    def _expected_while_closing(self) -> float:
        return MIN_RATE * self._settings.close_timeout

    # Keep-alive

    def _keep_alive(self) -> None:
        """Ping a silent peer; drop it if it shows no sign of life."""
        interval = self._settings.ping_interval
        assert interval is not None
        now, last_activity, awaited = time.monotonic(), self._last_activity, self._pinged
        if awaited is not None and last_activity + CLOCK_STEP < awaited.pinged_at:
            left = awaited.since + self._settings.ping_timeout - now
            if left > 0:
                self._set_deadline(left)
            else:
                self._look_for_life(awaited, now)
        elif now - last_activity < interval:
            self._set_deadline(interval - (now - last_activity))
        else:
            self._ping_silent(now)

    def _ping_silent(self, now: float) -> None:
        """Ping the peer, unless data waits before the ping. If the ping cannot be delivered, or its
        pong cannot be read, at once, record the peer's progress to compare with it later."""
        is_next = not (self._blocked or unacknowledged(self._descriptor))
        if is_next and not self._reading_paused:
            self._send_frame(Opcode.PING, KEEPALIVE)
            self._await_pong(AwaitedPong(KEEPALIVE, now, now, is_delivered=True))
            return
        look = self._progress()
        if self._is_busy and not look.is_tcp:  # the system reports the end of a local peer
            self._set_deadline(self._settings.ping_interval)
            return
        if self._reading_paused and self._backlog is not None:
            logger.warning("%r: received messages are queued, but nothing reads them", self)
        if not self._blocked:
            self._unread_pongs += self._reading_paused
            self._send_frame(Opcode.PING, KEEPALIVE)
            look = self._progress()
        self._await_pong(AwaitedPong(KEEPALIVE, now, now, is_next, look, self._end_of(look)))

    def _await_pong(self, awaited: AwaitedPong) -> None:
        self._pinged = awaited
        self._set_deadline(self._settings.ping_timeout)

    def _look_for_life(self, awaited: AwaitedPong, now: float) -> None:
        """No pong was read in time: drop the peer, unless there is another sign of life."""
        look, is_unread = self._progress(), self._reading_paused
        if awaited.last is None and (is_unread or not awaited.is_delivered):  # compare from now
            end = self._end_of(look)
            self._await_pong(awaited._replace(since=now, last=look, end=end))
        elif is_unread and awaited.is_answered(look, self._is_busy):
            self._pinged = None
            self._set_deadline(self._settings.ping_interval)
        elif awaited.makes_progress(look, now):
            self._await_pong(awaited._replace(since=now, last=look))
        elif awaited.has_left(look) and not awaited.is_delivered:
            self._await_pong(awaited._replace(since=now, last=look, is_delivered=True))
        else:
            self._drop_silent()

    def _end_of(self, look: Progress) -> int:
        """Return the count of acknowledged bytes at which all data sent so far is acknowledged."""
        return look.acknowledged + look.unacknowledged + self.buffered_amount + self._hidden_buffer

    def _drop_silent(self) -> None:
        """End the connection of a peer that is considered dead. Sends a close frame if possible:
        some peers are alive, but do not answer pings."""
        reason = "no answer to a ping"
        if self._blocked or self._is_busy:
            self._abort(reason)
        else:
            self._send_close(CloseCode.INTERNAL_ERROR, "keepalive ping timeout")
            self._end(Step.LOST, CloseCode.ABNORMAL_CLOSURE, reason)

    def _progress(self) -> Progress:
        counts = self._counts()
        return progress(self._descriptor, counts[5], counts[4])

    def _connection_lost(self, reason: str) -> None:
        if self._try_end(Step.LOST, CloseCode.ABNORMAL_CLOSURE, reason):
            self._announce_close()

    def _released(self) -> None:
        """The engine has closed the socket."""
        assert self._engine is not None
        self._engine._ledger.count_past(self.traffic)
        if isinstance(self._outcome, handshake.Accepted):
            self._engine._ledger.leave(self._counted_address)

    def _abandoned(self) -> None:
        """In a forked child: the connection stays open in the parent and is closed here. No
        listener is called: the parent's process calls them."""
        self._state = State.CLOSED
        self._send_state = SendState.ENDED
        self._close = OF_THE_PARENT
        self._listeners = self._memberships = ()
        self._message_listener = self._after_messages = None
        self._pinged = self._backlog = self._drain_waiters = None
        if self._inbox is not None:
            self._inbox.forget_after_fork(OF_THE_PARENT.code, OF_THE_PARENT.reason)


@in_forked_child
def _renew_lock() -> None:
    """In a forked child: the thread that held the lock does not exist."""
    ReceivingConnection._state_lock = native_rlock()
