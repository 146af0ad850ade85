"""Sending that the channel does not do itself: waiting for slow peers or closing them,
fragmented messages, and frames of protocol versions with a codec in Python.
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

from ..engine.send_state import SendState
from ..errors import ConnectionClosed, UnsupportedByVersion, WebSocketError
from ..protocol import handshake
from ..protocol.close_codes import CloseCode
from ..protocol.frame import MAX_CONTROL_PAYLOAD
from ..protocol.message import fragments
from ..protocol.prepared import PreparedMessage
from ..protocol.state import State
from .lifecycle import Codec, Connection
from .limits import SLOW_CONSUMER, exceeded_limit
from .listeners import EVENT_OVERHEAD

logger: logging.Logger = logging.getLogger("websocket_handler")


class SendingConnection(Connection):
    """A connection with the methods for sending; `send` itself is in the channel."""

    __slots__ = ()

    # The messages queued behind a fragmented one, each with its argument `compress`
    _queued_sends: deque[tuple[Any, bool | None]] | None = None
    _held_size = 0
    _fragmenter: int | None = None  # the thread that sends the fragmented message

    @property
    def buffered_amount(self) -> int:
        """Bytes accepted by `send` that the operating system has not accepted yet."""
        return self._unflushed + self._held_size + self._pending_output

    def send_text_message(self, text: str) -> None:
        """Like `send()`, for text only. Raises `TypeError` if `text` is not a str."""
        if not isinstance(text, str):
            raise TypeError(f"a text message is a str, not {type(text).__name__}")
        self.send(text)

    def send_binary_message(self, data: bytes | bytearray | memoryview) -> None:
        """Like `send()`, for binary data only. Raises `TypeError` if `data` is not bytes-like."""
        self.send(bytes(memoryview(data)))

    def ping(self, payload: str | bytes = b"") -> None:
        """Send a ping with at most 125 bytes of payload. Thread-safe.

        The peer answers with a pong of the same payload, which is emitted as `pong`. To detect dead
        peers, keep-alive pings are sent automatically (`Settings.ping_interval`).

        Raises `ValueError` for a longer payload, `TypeError` if it is neither str nor bytes-like,
        `ConnectionClosed` if the connection is not open, `UnsupportedByVersion` if the protocol
        version has no pings.
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
        """Block until the send buffer has drained to a quarter of `Settings.high_water`.

        Returns True at once if the buffer has not exceeded `high_water` since it last drained.
        Waits up to `timeout` seconds (None: no limit); returns False if the buffer has not drained
        by then.

        Raises `ConnectionClosed` if the connection is closing or closed, `WebSocketError` in the
        engine's own thread, where it would deadlock.
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
        """Wait until the send buffer has drained; for coroutines. Like `drain()`, with no limit.

        Raises `ConnectionClosed` if the connection is closing or closed.
        """
        self._complete_early()
        loop = asyncio.get_running_loop()
        drained = asyncio.Event()
        notice = partial(set_threadsafe, loop, drained)
        self._in_engine(partial(self._on_drained, notice))
        try:
            await drained.wait()
        finally:
            if not drained.is_set():
                self._in_engine(partial(self._forget_notice, notice))
        self._check_open()

    # Internal

    def _complete_early(self, is_conversation: bool = False) -> None:
        """Send the 101 now, because the handler waits for the connection."""
        raise NotImplementedError

    def _check_not_in_engine(self, call: str) -> None:
        if self._engine is not None and self._engine._is_own_thread():
            raise WebSocketError(
                f"{call} in the engine's own thread would deadlock: call it in another thread, or "
                "register a listener with on()"
            )

    def _send_slow_path(
        self, message: Any, compress: bool | None = None, timeout: float | None = None
    ) -> None:
        """The slow path of `send`. The channel itself sends only a str or bytes, on an open
        connection below high water whose codec it has."""
        self._check_open()
        if isinstance(self._outcome, handshake.Refused):  # `close` has not been emitted yet
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
        """Block until the send buffer and the queue behind a fragmented message have drained, if
        this thread may block and reading is not paused. Closes with 1008 if more than
        `max_buffered` bytes are unsent then."""
        if self._may_wait() and self._fragmenter != threading.get_ident():
            end = None if timeout is None else time.monotonic() + timeout
            while self._is_behind():
                self._wait_until_drained(end)
                if self._is_reading_paused():
                    break
        self._check_not_hopeless()

    def _make_room_for_fragment(self, timeout: float | None) -> None:
        """Like `_apply_backpressure`, for a fragment of the message that queued ones wait for."""
        if self._unflushed > self._settings.high_water:
            if self._may_wait():
                end = None if timeout is None else time.monotonic() + timeout
                self._wait_until_drained(end, of_channel=True)
            self._check_not_hopeless()

    def _may_wait(self) -> bool:
        return self._taken_over and self._engine is not None and self._engine._may_wait()

    def _wait_until_drained(self, end: float | None, of_channel: bool = False) -> None:
        """Wait until drained. Raises `TimeoutError` at the time `end`, `ConnectionClosed` if the
        connection is closed."""
        drained = threading.Event()
        notice: Callable[[], object] = drained.set
        self._in_engine(partial(self._on_drained, notice, or_full=True, of_channel=of_channel))
        if not drained.wait(None if end is None else max(0.0, end - time.monotonic())):
            self._in_engine(partial(self._forget_notice, notice))
            raise TimeoutError("the peer reads too slowly: the send buffer did not drain in time")
        self._check_open()

    def _check_not_hopeless(self) -> None:
        if self._is_hopeless:
            logger.info("%r: closing slow consumer, %d bytes unsent", self, self.buffered_amount)
            self._exceeded_limit = exceeded_limit(SLOW_CONSUMER.reason, self._settings)
            self._in_engine(partial(self._start_closing, *SLOW_CONSUMER))
            raise ConnectionClosed(*SLOW_CONSUMER, self._exceeded_limit)

    def _send_whole(
        self, message: str | bytes, compress: bool | None, prepared: PreparedMessage | None = None
    ) -> None:
        if self._codec is None:
            while not self._write_message(message, compress):  # the state has changed meanwhile
                if self._queue_if_fragmenting(message, compress):
                    break
                self._check_open()
                if self._send_state == SendState.ENDED:  # the end is about to be recorded
                    raise ConnectionClosed(self._close.code, self._close.reason)
            return
        with self._codec.send_lock:
            if not self._queue_if_fragmenting(message, compress):
                self._send_coded(self._codec, message, compress, prepared)

    def _send_coded(
        self,
        codec: Codec,
        message: str | bytes,
        compress: bool | None,
        prepared: PreparedMessage | None = None,
    ) -> None:
        with codec.send_lock:
            encoder = codec.encoder
            frame = prepared.frame_for(encoder) if prepared else encoder.message(message, compress)
            self._check_open()  # again: it may have been closed meanwhile
            self._count(messages_sent=1)
            self._write_coded(frame)

    def _send_prepared(self, message: PreparedMessage, limit: int | None = None) -> bool:
        """Send a message that `fan_out` has not sent. Like `send`, but never blocks: returns False,
        without sending, if more than `limit` bytes are unsent (default: above high water)."""
        self._check_open()
        if limit is not None:
            if self.buffered_amount > limit:
                return False
        elif self._unflushed > self._settings.high_water or self._has_too_much_ahead():
            return False
        if not self._queue_if_fragmenting(message.data, None):
            self._send_whole(message.data, None, message)
        return True

    # Messages in fragments

    def _queue_if_fragmenting(self, message: Any, compress: bool | None) -> bool:
        """Queue the message if a fragmented message is being sent. Returns whether it was queued.
        If too much is queued, reading from the peer is paused (server role only)."""
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
        """Send one message, a frame per piece; other messages are queued until its end."""
        iterator = iter(pieces)
        first: Any = next(iterator, iterator)
        if first is iterator:  # no piece: nothing is sent
            return
        pieces = chain([first], iterator)
        if self._begin_fragmented(pieces):
            try:
                self._send_fragments(pieces, timeout)
            finally:
                self._flush_queued_sends()

    def _begin_fragmented(self, pieces: Iterable[Any]) -> bool:
        """Begin a fragmented message: queue all other messages from now on. Returns False if one
        is already being sent: then `pieces` is queued."""
        becoming_frames = self._codec.send_lock if self._codec else contextlib.nullcontext()
        with becoming_frames, self._state_lock:
            if self._queue_if_fragmenting(pieces, None):
                return False
            self._queued_sends = deque()
            self._fragmenter = threading.get_ident()
        if self._codec is None:
            self._stop_sending(SendState.FRAGMENTED)
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
            self._count(messages_sent=self._codec is not None)  # else the channel has counted it
        except BaseException:
            if begun and self._state is not State.CLOSED:  # the message can never be completed
                self._in_engine(
                    partial(self._start_closing, CloseCode.INTERNAL_ERROR, "message aborted")
                )
            raise

    def _send_fragment(self, opcode: int, payload: bytes, fin: bool) -> None:
        if self._codec is None:
            if not self._write_frame(opcode, payload, fin):
                self._check_open()
            return
        with self._codec.send_lock:
            self._check_open()
            self._write_coded(self._codec.encoder.frame(opcode, payload, fin))

    def _flush_queued_sends(self) -> None:
        """Send the queued messages in order, until the queue is empty."""
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
                pass  # the queued message is lost, like all others
            except Exception:
                logger.exception("%r: a queued message could not be sent", self)
            except BaseException:  # it is meant for this thread; the queue must still be sent
                self._flush_queued_sends()
                raise

    def _take_held(self) -> tuple[Any, bool | None] | None:
        """Remove and return the next queued message. Returns None if the queue is empty: then
        messages are no longer queued."""
        with self._state_lock:
            if self._queued_sends:
                message, compress = self._queued_sends.popleft()
                self._held_size -= _size_of(message)
                return message, compress
            self._queued_sends = self._fragmenter = None
            was_full, self._holds_too_much = self._holds_too_much, False
            if self._send_state == SendState.FRAGMENTED and self._accepts_messages():
                self._send_state = SendState.DIRECT
        if was_full:
            self._in_engine(self._held_sent)
        return None

    def _held_sent(self) -> None:
        self._resume_reading()
        if not self._is_behind():
            self._notify_drain_waiters()

    def _announce_close(self) -> None:
        if (
            self._queued_sends is not None
        ):  # free the queue: the fragmented message may end much later
            with self._state_lock:
                self._queued_sends = deque() if self._queued_sends is not None else None
                self._held_size = 0
        super()._announce_close()


def _size_of(message: Any) -> int:
    """Return the bytes that a queued message counts. An iterable counts only the overhead: its
    fragments are made when they are sent."""
    return EVENT_OVERHEAD + (len(message) if isinstance(message, str | bytes) else 0)


def set_threadsafe(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    """Set the event of a loop, from any thread. Does nothing if the loop is closed."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(event.set)
