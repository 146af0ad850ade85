"""Sending on a connection, as far as it is not the channel's: whoever is behind is waited for or
given up, fragments leave one by one, and versions whose codec is in Python have their frames
made here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import chain
from typing import Any

from ..errors import ConnectionClosed, UnsupportedByVersion, WebSocketError
from ..protocol import handshake
from ..protocol.close_codes import CloseCode
from ..protocol.frame import MAX_CONTROL_PAYLOAD
from ..protocol.message import fragments
from ..protocol.prepared import PreparedMessage
from ..protocol.state import State
from .lifecycle import Codec, Connection
from .listeners import EVENT_OVERHEAD

logger = logging.getLogger("websocket_handler")


class SendingConnection(Connection):
    """A connection that an application sends on; `send` itself is the channel's, and so is
    `buffered_amount`."""

    __slots__ = ()

    # Messages that wait for a fragmented one to end, with what was said about compression
    _queued_sends: deque[tuple[Any, bool | None]] | None = None
    _held_size = 0
    _fragmenter: int | None = None  # the thread that sends the fragmented one

    @property
    def buffered_amount(self) -> int:
        """The bytes accepted by `send` that the operating system has not taken yet."""
        return self._unflushed + self._held_size + self._pending_output

    def send_text_message(self, text: str) -> None:
        """As `send`, for text alone: raises `TypeError` for anything but `str`."""
        if not isinstance(text, str):
            raise TypeError(f"a text message is a str, not {type(text).__name__}")
        self.send(text)

    def send_binary_message(self, data: bytes | bytearray | memoryview) -> None:
        """As `send`, for bytes-like objects alone: raises `TypeError` for anything else."""
        self.send(bytes(memoryview(data)))

    def ping(self, payload: str | bytes = b"") -> None:
        """Ping the peer; its `pong` event brings the same payload, at most 125 bytes.

        Pings that find dead peers are sent without this (`Settings.ping_interval`). Raises
        `ValueError` for a longer payload, `TypeError` for anything but str and bytes-like,
        `ConnectionClosed` if the connection is not open, `UnsupportedByVersion` where there are
        no pings.
        """
        body = payload.encode() if isinstance(payload, str) else bytes(memoryview(payload))
        if len(body) > MAX_CONTROL_PAYLOAD:
            raise ValueError(f"the payload of a ping is at most {MAX_CONTROL_PAYLOAD} bytes")
        self._check_open()
        if isinstance(self._outcome, handshake.Refused):
            return
        if not self._version._has_pings:
            raise UnsupportedByVersion(f"{self._version} has no pings")
        self._in_engine(partial(self._send_ping, body))

    def drain(self, timeout: float | None = None) -> bool:
        """Wait up to `timeout` seconds until no more than a quarter of high water waits to
        be sent, if there was more than high water; for threads. Returns whether that is so.

        Raises `ConnectionClosed` if the connection is closing or closed, `WebSocketError`
        in the engine's own thread, which would wait for itself.
        """
        self._complete_early()
        self._check_not_in_engine("drain()")
        drained = threading.Event()
        notice = drained.set
        self._in_engine(partial(self._on_drained, notice))
        try:
            in_time = drained.wait(timeout)
        finally:
            if not drained.is_set():
                self._in_engine(partial(self._forget_notice, notice))
        self._check_open()
        return in_time

    async def adrain(self) -> None:
        """As `drain`, for coroutines."""
        self._complete_early()
        loop = asyncio.get_running_loop()
        drained = asyncio.Event()
        notice = partial(tell, loop, drained)
        self._in_engine(partial(self._on_drained, notice))
        try:
            await drained.wait()
        finally:
            if not drained.is_set():
                self._in_engine(partial(self._forget_notice, notice))
        self._check_open()

    # Behind the API

    def _complete_early(self, is_conversation: bool = False) -> None:
        """Send the 101 now: the handler waits for something."""
        raise NotImplementedError

    def _check_not_in_engine(self, call: str) -> None:
        if self._engine is not None and self._engine.is_own_thread():
            raise WebSocketError(
                f"{call} would stop the engine, whose thread this is: call it in another thread, "
                "or register a listener with on()"
            )

    def _send_slow_path(
        self, message: Any, compress: bool | None = None, timeout: float | None = None
    ) -> None:
        """`send` for whatever the channel does not send by itself: a str or bytes, on a
        connection that is open and keeps up, in a version it has a codec for."""
        self._check_open()
        if isinstance(self._outcome, handshake.Refused):  # the handler does not know it yet
            return
        if isinstance(message, bytearray | memoryview):
            message = bytes(message)
        is_whole = isinstance(message, str | bytes)
        if not is_whole and (not isinstance(message, Iterable) or isinstance(message, Mapping)):
            raise TypeError(
                "a message is a str, a bytes-like object, or an iterable of either, "
                f"not {type(message).__name__}"
            )
        if self.buffered_amount > self._settings.high_water:
            self._apply_backpressure(timeout)
        if not self._queue_if_fragmenting(message, compress):
            if is_whole:
                self._send_whole(message, compress)
            else:
                self._send_fragmented(message, timeout)

    def _apply_backpressure(self, timeout: float | None) -> None:
        """Wait for a peer that is behind, and for a fragmented message that is under way, in
        threads that may, unless the peer waits for us to take messages; give one up that is
        hopelessly behind."""
        if self._may_wait() and self._fragmenter != threading.get_ident():
            end = None if timeout is None else time.monotonic() + timeout
            while self._is_behind():
                self._wait_until_drained(end)
                if self._is_reading_paused():
                    break
        self._check_not_hopeless()

    def _make_room_for_fragment(self, timeout: float | None) -> None:
        """As `_apply_backpressure`, for the message that the others wait for."""
        if self._unflushed > self._settings.high_water:
            if self._may_wait():
                end = None if timeout is None else time.monotonic() + timeout
                self._wait_until_drained(end, of_channel=True)
            self._check_not_hopeless()

    def _may_wait(self) -> bool:
        return self._taken_over and self._engine is not None and self._engine.may_wait()

    def _wait_until_drained(self, end: float | None, of_channel: bool = False) -> None:
        """Raises `TimeoutError` if that is not so by `end`, `ConnectionClosed` if it is over."""
        drained = threading.Event()
        notice: Callable[[], object] = drained.set
        self._in_engine(partial(self._on_drained, notice, or_full=True, of_channel=of_channel))
        if not drained.wait(None if end is None else max(0.0, end - time.monotonic())):
            self._in_engine(partial(self._forget_notice, notice))
            raise TimeoutError("the peer is behind, and has not caught up in time")
        self._check_open()

    def _check_not_hopeless(self) -> None:
        if self._is_hopeless:
            logger.info("%r: closing, %d bytes were not read", self, self.buffered_amount)
            self._in_engine(
                partial(self._start_closing, CloseCode.POLICY_VIOLATION, "slow consumer")
            )
            raise ConnectionClosed(CloseCode.POLICY_VIOLATION, "slow consumer")

    def _send_whole(
        self, message: str | bytes, compress: bool | None, prepared: PreparedMessage | None = None
    ) -> None:
        if self._codec is None:
            if not self._write_message(message, compress):  # it cannot be sent any more, or yet
                self._send_slow_path(message, compress)
            return
        with self._codec.sending:
            if not self._queue_if_fragmenting(message, compress):
                self._send_coded(self._codec, message, compress, prepared)

    def _send_coded(
        self,
        codec: Codec,
        message: str | bytes,
        compress: bool | None,
        prepared: PreparedMessage | None = None,
    ) -> None:
        with codec.sending:
            encoder = codec.encoder
            frame = prepared.frame_for(encoder) if prepared else encoder.message(message, compress)
            self._check_open()  # still
            self._count(messages_sent=1)
            self._write_coded(frame)

    def _send_prepared(self, message: PreparedMessage) -> bool:
        """As `send`, which it does for what `fan_out` leaves. Never waits: returns False if the
        peer is behind, and sends nothing then."""
        self._check_open()
        if self._unflushed > self._settings.high_water or self._has_too_much_ahead():
            return False
        if not self._queue_if_fragmenting(message.data, None):
            self._send_whole(message.data, None, message)
        return True

    # Messages in fragments

    def _queue_if_fragmenting(self, message: Any, compress: bool | None) -> bool:
        """Whether a fragmented message is under way: then this one follows it. Where too much
        does, nothing more is read from a client."""
        with self._state_lock:
            if self._queued_sends is None:
                return False
            self._queued_sends.append((message, compress))
            self._held_size += _size_of(message)
            is_full = self._held_size > self._settings.high_water and not self._holds_too_much
            self._holds_too_much |= is_full
        if is_full and not self._is_client:
            self._in_engine(self._resume_reading)
        return True

    def _send_fragmented(self, pieces: Iterable[Any], timeout: float | None) -> None:
        """One message, a frame a piece; what others send meanwhile waits for its end."""
        iterator = iter(pieces)
        first: Any = next(iterator, iterator)
        if first is iterator:  # there is none
            return
        pieces = chain([first], iterator)
        if self._begin_fragmented(pieces):
            try:
                self._send_fragments(pieces, timeout)
            finally:
                self._flush_queued_sends()

    def _begin_fragmented(self, pieces: Iterable[Any]) -> bool:
        """What is sent from now on waits, but for what is being compressed; returns False if that
        is so already: then `pieces` waits too."""
        becoming_frames = self._codec.sending if self._codec else contextlib.nullcontext()
        with becoming_frames, self._state_lock:
            if self._queue_if_fragmenting(pieces, None):
                return False
            self._queued_sends = deque()
            self._fragmenter = threading.get_ident()
            if self._codec is None:
                self._fragmenting = True
        if self._codec is None:
            self._stop_sending()
        return True

    def _send_fragments(self, pieces: Iterable[Any], timeout: float | None = None) -> None:
        iterator = iter(pieces)
        first: Any = next(iterator, iterator)
        if first is iterator:
            return
        begun = False
        try:
            for opcode, payload, fin in fragments(iterator, first):
                self._check_open()
                self._make_room_for_fragment(timeout)
                self._send_fragment(opcode, payload, fin)
                begun = True
            self._count(messages_sent=self._codec is not None)  # else the channel has
        except BaseException:
            if begun and self._state is not State.CLOSED:  # the message can never be completed
                self._in_engine(
                    partial(self._start_closing, CloseCode.INTERNAL_ERROR, "message broken off")
                )
            raise

    def _send_fragment(self, opcode: int, payload: bytes, fin: bool) -> None:
        if self._codec is None:
            if not self._write_frame(opcode, payload, fin):
                self._check_open()
            return
        with self._codec.sending:
            self._check_open()
            self._write_coded(self._codec.encoder.frame(opcode, payload, fin))

    def _flush_queued_sends(self) -> None:
        """Send what has waited, in its order, until nothing does."""
        while (waiting := self._take_held()) is not None:
            message, compress = waiting
            try:
                if not isinstance(message, str | bytes):
                    self._send_fragments(message)
                elif self._codec is None:
                    self._write_message(message, compress, held=True)
                else:
                    self._send_coded(self._codec, message, compress)
            except ConnectionClosed:
                pass  # it waited in vain
            except Exception:
                logger.exception("%r: a message that waited for another could not be sent", self)
            except BaseException:  # of this thread, and no fault of those that wait
                self._flush_queued_sends()
                raise

    def _take_held(self) -> tuple[Any, bool | None] | None:
        """The next message that has waited; None if there is none, and none has to from now on."""
        with self._state_lock:
            if self._queued_sends:
                message, compress = self._queued_sends.popleft()
                self._held_size -= _size_of(message)
                return message, compress
            self._queued_sends = self._fragmenter = None
            was_full, self._holds_too_much = self._holds_too_much, False
            if self._codec is None:
                self._fragmenting = False
                self._sendable = self._accepts_messages()
        if was_full:
            self._in_engine(self._held_sent)
        return None

    def _held_sent(self) -> None:
        self._resume_reading()
        if not self._is_behind():
            self._notify_drain_waiters()

    def _announce_close(self) -> None:
        if self._queued_sends is not None:  # the fragmented message may take long to end
            with self._state_lock:
                self._queued_sends = deque() if self._queued_sends is not None else None
                self._held_size = 0
        super()._announce_close()


def _size_of(message: Any) -> int:
    """What a message counts that waits; the fragments of one are made when they are sent."""
    return EVENT_OVERHEAD + (len(message) if isinstance(message, str | bytes) else 0)


def tell(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    """Set the event of a loop, from any thread; nobody waits for it in a loop that has ended."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(event.set)
