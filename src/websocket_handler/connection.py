"""The life of a connection: events, pings, the closing handshake, time-outs.

RFC 6455 sections 5.5 and 7. `Channel` below carries bytes, `WebSocket` above is what an
application sees; here is what happens between. Everything under "What the engine calls"
runs in the engine's thread.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextvars import Context
from typing import Any, ClassVar

from .engine import Channel, Engine
from .engine.empty_context import in_empty_context
from .engine.ledger import Traffic
from .errors import ConnectionClosed, ProtocolError, WebSocketError
from .inbox import Backlog, LoopInbox, ThreadInbox
from .protocol import handshake
from .protocol import message as framing
from .protocol.assembly import Close, Completed, Event, Message, Ping, Pong
from .protocol.check import (
    ABNORMAL_CLOSURE,
    GOING_AWAY,
    INTERNAL_ERROR,
    NO_CODE_RECEIVED,
    NORMAL_CLOSURE,
    POLICY_VIOLATION,
)
from .protocol.deflate import Deflater, Inflater
from .protocol.frame import Opcode
from .protocol.permessage_deflate import Agreement, Compression, Terms, terms
from .protocol.state import State, Step, advance
from .protocol.versions import Version
from .protocol.versions.version import Decoder, Encoder
from .settings import Settings
from .surroundings import Surroundings

logger = logging.getLogger("websocket_handler")

CLOCK_STEP = 0.001
"""Seconds: how coarse the clock is by which an engine notes when a peer was heard."""

KEEPALIVE = b"keepalive"
"""The payload of the pings that only see whether the peer is alive; their pongs are no event."""

ORDINARY_CODES = (NORMAL_CLOSURE, GOING_AWAY, NO_CODE_RECEIVED)
"""Connections that end with these are logged at DEBUG, all others at INFO, and end an
iteration over their messages without an error."""


NOT_CLOSED = Close(ABNORMAL_CLOSURE, "")
"""How a connection ends that nobody closes."""


class Codec:
    """The codec of the connection's version in Python, where the channel has none for it."""

    __slots__ = ("decoder", "encoder", "sending", "withheld")

    def __init__(self, decoder: Decoder, encoder: Encoder, withhold: bool) -> None:
        self.decoder = decoder
        self.encoder = encoder
        self.sending = threading.RLock()
        """Held from the last look at the state of the connection until a frame is written."""
        self.withheld = bytearray() if withhold else None
        """What was sent before the handshake was complete, in versions that complete later."""

    def compress(self, agreed: Terms) -> None:
        """Of a version whose frames may be compressed."""
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


class Connection(Channel):
    """A connection with its state, its listeners, and whoever else takes its messages."""

    __slots__ = (
        "__dict__",
        "_close",
        "_inbox",
        "_listeners",
        "_memberships",
        "_outcome",
        "_pinged",
        "_settings",
        "_state",
    )

    _moment: ClassVar = threading.RLock()
    """Held for a moment by whoever changes the state of a connection, or what waits on it."""

    # What few connections ever have takes no slot: it is in the dict that the application may
    # give attributes of its own, and in none until then.

    _codec: Codec | None = None
    _backlog: Backlog | None = None
    _pong: bytes | None = None  # the newest ping's, while the peer is not reading
    _surroundings: Surroundings | None = None
    _waiting_for_room: list[tuple[Callable[[], object], bool]] | None = None

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._state = State.CONNECTING
        self._outcome: handshake.Accepted | handshake.Refused | None = None
        self._close = NOT_CLOSED
        self._listeners: tuple[tuple[str, Callable[..., object]], ...] = ()  # but for messages
        self._inbox: LoopInbox | ThreadInbox | None = None
        self._pinged: tuple[float, bytes] | None = None  # when, and the payload, until its pong
        self._memberships: tuple[Callable[[Connection], object], ...] = ()  # in rooms

    def _speak(
        self,
        engine: Engine,
        version: Version,
        secret: bytes = b"",
        client: bool = False,
        agreement: Agreement | None = None,
    ) -> None:
        """Have the codec of `version`, before the first byte, with what was agreed about
        compression."""
        settings, agreed = self._settings, None
        if agreement is not None and isinstance(settings.compression, Compression):
            agreed = terms(agreement, settings.compression, client)
        if not (version.is_native and self.has_codec and (agreed is None or self.has_deflate)):
            self._codec = Codec(
                version.decoder(settings, not client, secret),
                version.encoder(client, secret),
                withhold=version.completes_later and not client,
            )
            if agreed is not None:
                self._codec.compress(agreed)
        self._bind(engine, settings, version, client, self._codec is not None, agreed)

    @property
    def _version(self) -> Version:
        if isinstance(self._outcome, handshake.Accepted):
            return self._outcome.version
        return self._settings.versions[0]

    @property
    def _counted_address(self) -> str | None:
        """Where the connection comes from, if connections from there are limited."""
        raise NotImplementedError

    @property
    def traffic(self) -> Traffic:
        """What went over the connection so far."""
        counts = Traffic(*self._counts())
        if self._codec is None:
            return counts
        return counts._replace(frames_received=self._codec.decoder.frames)

    def _in_engine(self, call: Callable[[], object]) -> None:
        """Change the state in one thread only: the handler's before the hand-over, the
        engine's after."""
        engine = self._engine
        if engine is None or not self._taken_over or engine.is_own_thread():
            call()
        else:
            engine.post(call)

    def _check_open(self) -> None:
        if self._outcome is None:
            raise WebSocketError("connect() has not been called")
        if self._state in (State.CLOSING, State.CLOSED):
            raise ConnectionClosed(self._close.code, self._close.reason)

    # Events

    def _emit(self, event: str, *arguments: object) -> None:
        for name, listener in self._listeners:
            if name == event:
                try:
                    Context().run(listener, *arguments)
                except BaseException as error:
                    self._failed(error)

    def _emit_last(self, event: str, *arguments: object) -> None:
        """As `_emit`, where a listener that raises changes nothing any more."""
        self._call_last(self._listeners, event, *arguments)

    def _call_last(
        self, listeners: tuple[tuple[str, Callable[..., object]], ...], event: str, *args: object
    ) -> None:
        for name, listener in listeners:
            if name == event:
                try:
                    Context().run(listener, *args)
                except BaseException:
                    logger.exception("%r: a listener of %r raised", self, event)

    # Rooms

    def _become_member(self, leave: Callable[[Connection], object]) -> None:
        """Have `leave` called with this connection at its end, before the listeners of that,
        or now if it has come."""
        if self._state is State.CLOSED or isinstance(self._outcome, handshake.Refused):
            leave(self)
        else:
            self._memberships = (*self._memberships, leave)

    def _end_membership(self, leave: Callable[[Connection], object]) -> None:
        self._memberships = tuple(other for other in self._memberships if other != leave)

    # Messages

    def _unheard(self, message: Any) -> None:
        """A message nobody takes: it waits until somebody does."""
        if self._state is not State.OPEN:
            return
        if self._inbox is not None:  # somebody has just begun to ask
            self._inbox.put(message)
        else:
            self._backlog = Backlog(self, self._settings.high_water)
            self._message_listener = self._backlog.put
            self._backlog.put(message)

    @in_empty_context
    def _hear(self, listener: Callable[[Any], object] | None) -> None:
        """Messages go to `listener` from now on, those that waited first; unless it takes itself
        off, or ends the connection."""
        backlog = self._backlog
        if backlog is not None:
            self._backlog = None
        self._message_listener = listener if self._takes_messages() else None
        for message in backlog.messages if backlog else ():
            try:
                (self._message_listener or self._unheard)(message)
            except BaseException as error:
                self._failed(error)
        if backlog and backlog.held_back:
            self._go_on()

    def _hear_inbox(self, inbox: LoopInbox | ThreadInbox) -> None:
        backlog = self._backlog
        if backlog is not None and not self._takes_messages():  # they can still be taken
            self._backlog = None
            for message in backlog.messages:
                inbox.put(message)
        self._hear(inbox.put)
        if isinstance(inbox, LoopInbox) and inbox.is_home:
            self._after_messages = inbox.wake
        if self._state is State.CLOSED:
            inbox.end(self._close.code, self._close.reason)

    def _hold_back(self) -> None:
        """Read no more: too much waits for the application."""
        self._pause_reading(True)
        self._tell_of_room(full=True)

    def _go_on(self) -> None:
        self._pause_reading(self._takes_messages() and self._takes_nothing())

    def _pause(self, paused: bool) -> None:
        """The application wants no messages for now, or wants them again."""
        if self._takes_messages():
            self._paused = paused
            self._pause_reading(self._takes_nothing())
            if paused:
                self._tell_of_room(full=True)

    def _takes_messages(self) -> bool:
        """Whether messages are still wanted: once it is closing, they are dropped."""
        return self._state in (State.CONNECTING, State.OPEN)

    def _takes_nothing(self) -> bool:
        """Whether the application is to take messages first, or wants none."""
        waiting = self._inbox or self._backlog
        return self._paused or (waiting is not None and waiting.held_back)

    # Room for more to be sent

    def _when_drained(self, notice: Callable[[], object], or_full: bool = False) -> None:
        """Have `notice` called when the peer has caught up, at the end, or now; also when we
        read nothing, and the peer may be waiting for us, if that matters."""
        if (
            not self._above_water
            or self._state is State.CLOSED
            or (or_full and self._takes_nothing())
        ):
            notice()
        else:
            self._waiting_for_room = [*(self._waiting_for_room or ()), (notice, or_full)]

    def _tell_of_room(self, full: bool = False) -> None:
        waiting = self._waiting_for_room
        if waiting is None:
            return
        self._waiting_for_room = None
        if full:
            self._waiting_for_room = [pair for pair in waiting if not pair[1]] or None
        for notice, or_full in waiting:
            if or_full or not full:
                notice()

    # Frames

    def _send_frame(self, opcode: int, payload: bytes, fin: bool = True) -> None:
        if self._codec is None:
            self._write_frame(opcode, payload, fin)
        else:
            self._write_coded(self._codec.encoder.frame(opcode, payload, fin))

    def _send_close(self, code: int, reason: str) -> None:
        code = dict(self._version.close_codes).get(code, code)
        if self._codec is not None:
            known = None if code == NO_CODE_RECEIVED else code
            with self._codec.sending:
                self._write_coded(self._codec.encoder.close(known, reason))
        elif code == NO_CODE_RECEIVED:
            self._write_frame(Opcode.CLOSE, b"")
        else:
            self._write_frame(Opcode.CLOSE, code.to_bytes(2, "big") + reason.encode())

    def _write_coded(self, data: bytes) -> None:
        self._count(frames_sent=bool(data))
        if self._codec is None or self._codec.withheld is None:
            self._write(data)
        else:
            self._codec.withheld += data

    # Ending

    def _start_closing(self, code: int, reason: str) -> None:
        if isinstance(self._outcome, handshake.Refused) or not self._step(Step.CLOSE_SENT):
            return
        self._sendable = False
        self._message_listener = None
        self._close = Close(code, reason)
        self._set_deadline(self._settings.close_timeout)  # first: sending may find no memory
        self._send_close(code, reason)
        self._pause_reading(False)  # or the answer would not be seen
        if not self._version.has_close:
            self._finish()

    def _settle(self, step: Step, code: int, reason: str) -> bool:
        """Whether this is what ended the connection: then `code` and `reason` stand."""
        if not self._step(step):
            return False
        self._sendable = False
        self._close = Close(code, reason)
        return True

    def _step(self, step: Step) -> bool:
        """Whether it is not too late for this step. Where a listener was left behind in another
        thread, both may end the connection, but only one does."""
        with self._moment:
            state = advance(self._state, step)
            if state is not None:
                self._state = state
            return state is not None

    def _announce_close(self) -> None:
        if self._engine is not None and isinstance(self._outcome, handshake.Accepted):
            self._engine.ledger.count_closed(self._close.code)
            if not self._taken_over:  # and never will be
                self._engine.ledger.leave(self._counted_address)
        code, reason, _ = self._close
        level = logging.DEBUG if code in ORDINARY_CODES else logging.INFO
        logger.log(level, "%r: %d %s", self, code, reason)
        memberships, self._memberships = self._memberships, ()
        for leave in memberships:
            leave(self)
        listeners, self._listeners = self._listeners, ()  # nothing comes after it
        self._message_listener = self._after_messages = None
        self._call_last(listeners, "close", code, reason)
        self._tell_of_room()
        if self._inbox is not None:
            self._inbox.end(code, reason)

    def _linger(self) -> None:
        """Send what is left and FIN, then wait for the peer's: closing with its data unread
        would reset the connection and could take our last bytes with it."""
        self._set_deadline(self._settings.close_timeout)
        self._finish()

    def _give_up(self, reason: str) -> None:
        """Drop the socket if there is one; in any case the WebSocket is over."""
        self._drop(reason)
        self._connection_lost(reason)

    # What the engine calls

    def _opened(self) -> None:
        """The engine has the socket; the response to the handshake is on its way."""
        if isinstance(self._outcome, handshake.Refused):
            self._set_deadline(self._settings.close_timeout)
            status, reason = self._outcome.status, self._outcome.reason
            self._connection_lost(f"handshake refused with {int(status)}: {reason}")
        elif self._codec is not None and self._codec.withheld is not None:
            self._set_deadline(self._settings.open_timeout)
        else:
            self._open()

    def _completed(self, response: bytes) -> None:
        """The rest of the handshake is here; what had to wait for it follows its answer."""
        assert self._codec is not None
        with self._codec.sending:
            withheld, self._codec.withheld = self._codec.withheld, None
            self._write(response + bytes(withheld or b""))
        self._open()

    def _open(self) -> None:
        if self._state is not State.CLOSING:
            self._step(Step.OPENED)
        self._set_usual_deadline()
        if self._state is State.OPEN:
            self._emit("open")

    def _opens_unnoticed(self) -> bool:
        """Whether `_opened` will call nobody, and send nothing."""
        return (
            isinstance(self._outcome, handshake.Accepted)
            and self._codec is None
            and all(name != "open" for name, _ in self._listeners)
        )

    def _set_usual_deadline(self) -> None:
        """How long the peer may be silent."""
        if self._state is State.CLOSING:
            self._set_deadline(self._settings.close_timeout)
        elif self._state is State.OPEN:
            self._set_deadline(self._settings.ping_interval if self._version.has_pings else None)

    def _feed(self, data: bytes | bytearray) -> None:
        """What has arrived, where the channel has no codec for the version."""
        assert self._codec is not None
        for event in self._codec.decoder.feed(data):
            if self._deaf:
                return
            try:
                self._take_event(event)
            except BaseException as error:
                self._failed(error)

    def _take_event(self, event: Event) -> None:
        if isinstance(event, Message):
            self._count(messages_received=1)
            (self._message_listener or self._unheard)(event.data)
        elif isinstance(event, Ping):
            self._ping_received(event.payload)
        elif isinstance(event, Pong):
            self._pong_received(event.payload)
        elif isinstance(event, Close):
            self._close_received(*event)
        elif isinstance(event, Completed):
            self._completed(event.response)
        else:
            self._violated(*event)

    def _ping_received(self, payload: bytes) -> None:
        if self._state is not State.OPEN or self._closes_for_flood():
            return
        if self._blocked:  # only the newest needs an answer (RFC 6455 section 5.5.3)
            self._pong = payload
            self._tell_when_flushed = True
        else:
            self._send_frame(Opcode.PONG, payload)
        self._emit("ping", payload)

    def _pong_received(self, payload: bytes) -> None:
        if self._state is not State.OPEN or self._closes_for_flood():
            return
        if self._pinged is not None and self._pinged[1] == payload:
            self._latency = time.monotonic() - self._pinged[0]
            self._pinged = None
            assert self._engine is not None
            self._engine.ledger.count_round_trip(self._latency)
        if payload != KEEPALIVE:
            self._emit("pong", payload)

    def _closes_for_flood(self) -> bool:
        if not self._is_flooded():
            return False
        self._violated(POLICY_VIOLATION, "too many control frames")
        return True

    def _send_ping(self, payload: bytes) -> None:
        if self._pinged is None:  # the pong of one is awaited at a time
            self._pinged = time.monotonic(), payload
        self._send_frame(Opcode.PING, payload)

    def _flushed(self) -> None:
        """Everything was sent: the pong that had to wait may follow."""
        if self._pong is not None and self._state is State.OPEN:
            payload, self._pong = self._pong, None
            self._send_frame(Opcode.PONG, payload)

    def _drained(self) -> None:
        if self._state is State.OPEN:
            self._emit("drain")
        if not self._above_water:
            self._tell_of_room()

    def _close_received(self, code: int, reason: str, cookie: bytes = b"") -> None:
        self._let_messages_be_answered()
        for present, former in self._version.close_codes:
            code = present if code == former else code
        if self._codec is not None:
            initiated = self._state is State.CLOSING
            former = dict(self._version.close_codes).get(code, code)
            close = Close(former, reason, cookie)
            with self._codec.sending:
                self._write_coded(self._codec.encoder.answer_close(close, initiated))
        elif self._state is State.OPEN:
            self._send_close(code, reason)
        self._end(Step.CLOSE_RECEIVED, code, reason)

    def _violated(self, code: int, reason: str) -> None:
        """Fail the connection (RFC 6455 section 7.1.7)."""
        self._let_messages_be_answered()
        if self._state is State.OPEN:
            self._send_close(code, reason)
        self._end(Step.LOST, code, reason, ProtocolError(code, reason))

    def _let_messages_be_answered(self) -> None:
        """A coroutine that is resumed once a read gets its turn before the end in that read."""
        if self._after_messages is not None:
            self._after_messages()

    def _input_over(self) -> None:
        if self._version.has_close or self._state is State.CONNECTING:
            reason = "the peer ended the connection without closing it"
            self._end(Step.LOST, ABNORMAL_CLOSURE, reason)
        elif self._state is State.CLOSING:
            self._end(Step.CLOSE_RECEIVED, self._close.code, self._close.reason)
        else:
            self._end(Step.CLOSE_RECEIVED, NO_CODE_RECEIVED, "")

    def _end(self, step: Step, code: int, reason: str, error: Exception | None = None) -> None:
        ended = self._settle(step, code, reason)
        self._linger()
        if error is not None:
            self._emit_last("error", error)
        if ended:
            self._announce_close()

    def _failed(self, error: BaseException) -> None:
        """A listener raised, or memory ran out: this connection ends, with 1011."""
        logger.error("%r: a listener raised", self, exc_info=error)
        self._emit_last("error", error)
        self._start_closing(INTERNAL_ERROR, "internal error")
        if isinstance(error, KeyboardInterrupt | SystemExit) and self._engine is not None:
            self._engine.interrupt(error)

    def _deadline_passed(self) -> None:
        if self._state is State.OPEN:
            self._keep_alive()
        elif self._state is State.CLOSING:
            self._give_up("the peer did not answer the close frame in time")
        elif self._state is State.CONNECTING:
            self._give_up("the client did not complete the handshake in time")
        else:
            self._drop("")

    def _keep_alive(self) -> None:
        """Ping a silent peer, and drop it if it stays silent."""
        interval = self._settings.ping_interval
        assert interval is not None
        if self._reading_paused:  # it is we who do not listen
            if self._backlog is not None:
                logger.warning("%r: messages wait, but there is no listener or iteration", self)
            self._pinged = None
            self._set_deadline(interval)
            return
        now, heard, timeout = time.monotonic(), self._heard, self._settings.ping_timeout
        if self._pinged is not None and heard + CLOCK_STEP < self._pinged[0]:
            left = self._pinged[0] + timeout - now
            if left > 0:
                self._set_deadline(left)
            else:
                self._give_up("no answer to a ping")
            return
        if now - heard < interval:
            self._set_deadline(interval - (now - heard))
            return
        self._pinged = now, KEEPALIVE
        if not self._blocked:
            self._send_frame(Opcode.PING, KEEPALIVE)
        self._set_deadline(timeout)

    def _connection_lost(self, reason: str) -> None:
        if self._settle(Step.LOST, ABNORMAL_CLOSURE, reason):
            self._announce_close()

    def _released(self) -> None:
        """The engine has closed the socket."""
        assert self._engine is not None
        self._engine.ledger.count_past(self.traffic)
        if isinstance(self._outcome, handshake.Accepted):
            self._engine.ledger.leave(self._counted_address)


def _renew_lock() -> None:
    """In a forked child: the thread that held it is not here."""
    Connection._moment = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)
