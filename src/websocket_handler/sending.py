"""Sending on a connection, as far as it is not the channel's: whoever is behind is waited for or
given up, fragments leave one by one, and versions whose codec is in Python have their frames
made here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import chain
from typing import Any

from .connection import Codec, Connection
from .errors import ConnectionClosed, UnsupportedByVersion, WebSocketError
from .protocol import handshake
from .protocol.check import INTERNAL_ERROR, POLICY_VIOLATION
from .protocol.frame import MAX_CONTROL_PAYLOAD
from .protocol.message import fragments
from .protocol.prepared import PreparedMessage
from .protocol.state import State

logger = logging.getLogger("websocket_handler")


class SendingConnection(Connection):
    """A connection that an application sends on; `send` itself is the channel's, and so is
    `buffered_amount`."""

    __slots__ = ()

    # Messages that wait for a fragmented one to end, with what was said about compression
    _held: list[tuple[Any, bool | None]] | None = None

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
        if not self._version.has_pings:
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
        relieved = threading.Event()
        self._in_engine(partial(self._when_drained, relieved.set))
        in_time = relieved.wait(timeout)
        self._check_open()
        return in_time

    async def adrain(self) -> None:
        """As `drain`, for coroutines."""
        self._complete_early()
        loop = asyncio.get_running_loop()
        relieved = asyncio.Event()
        self._in_engine(partial(self._when_drained, partial(tell, loop, relieved)))
        await relieved.wait()
        self._check_open()

    # Behind the API

    def _complete_early(self, is_conversation: bool = False) -> None:
        """Send the 101 now: the handler waits for something."""
        raise NotImplementedError

    def _check_not_in_engine(self, what: str) -> None:
        if self._engine is not None and self._engine.is_own_thread():
            raise WebSocketError(f"{what} would stop the engine, whose thread this is")

    def _send_otherwise(self, message: Any, compress: bool | None = None) -> None:
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
        self._make_room()
        if not self._has_to_wait(message, compress):
            if is_whole:
                self._send_whole(message, compress)
            else:
                self._send_fragmented(message)

    def _make_room(self) -> None:
        """Wait for a peer that is behind, in threads that may, unless it waits for us to take
        messages; give one up that is hopelessly behind."""
        if self.buffered_amount <= self._settings.high_water:
            return
        if self._taken_over and self._engine is not None and self._engine.may_wait():
            relieved = threading.Event()
            self._in_engine(partial(self._when_drained, relieved.set, or_full=True))
            relieved.wait()
            self._check_open()
        if self.buffered_amount > self._settings.max_buffered:
            logger.info("%r: closing, %d bytes were not read", self, self.buffered_amount)
            self._in_engine(partial(self._start_closing, POLICY_VIOLATION, "slow consumer"))
            raise ConnectionClosed(POLICY_VIOLATION, "slow consumer")

    def _send_whole(
        self, message: str | bytes, compress: bool | None, prepared: PreparedMessage | None = None
    ) -> None:
        if self._codec is None:
            if not self._write_message(message, compress):  # it cannot be sent any more, or yet
                self._send_otherwise(message, compress)
            return
        with self._codec.sending:
            if not self._has_to_wait(message, compress):
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
        if self.buffered_amount > self._settings.high_water:
            return False
        if not self._has_to_wait(message.data, None):
            self._send_whole(message.data, None, message)
        return True

    # Messages in fragments

    def _has_to_wait(self, message: Any, compress: bool | None) -> bool:
        """Whether a fragmented message is under way: then this one follows it."""
        with self._moment:
            if self._held is not None:
                self._held.append((message, compress))
            return self._held is not None

    def _send_fragmented(self, pieces: Iterable[Any]) -> None:
        """One message, a frame a piece; what others send meanwhile waits for its end."""
        iterator = iter(pieces)
        first: Any = next(iterator, iterator)
        if first is iterator:  # there is none
            return
        pieces = chain([first], iterator)
        if self._hold_others(pieces):
            try:
                self._send_fragments(pieces)
            finally:
                self._send_held()

    def _hold_others(self, pieces: Iterable[Any]) -> bool:
        """What is sent from now on waits, but for what is being compressed; returns False if that
        is so already: then `pieces` waits too."""
        becoming_frames = self._codec.sending if self._codec else contextlib.nullcontext()
        with becoming_frames, self._moment:
            if self._held is not None:
                self._held.append((pieces, None))
                return False
            self._held = []
            if self._codec is None:
                self._fragmenting = True
        if self._codec is None:
            self._stop_sending()
        return True

    def _send_fragments(self, pieces: Iterable[Any]) -> None:
        iterator = iter(pieces)
        first: Any = next(iterator, iterator)
        if first is iterator:
            return
        begun = False
        try:
            for opcode, payload, fin in fragments(iterator, first):
                self._check_open()
                self._make_room()
                self._send_fragment(opcode, payload, fin)
                begun = True
            self._count(messages_sent=self._codec is not None)  # else the channel has
        except BaseException:
            if begun and self._state is not State.CLOSED:  # the message can never be completed
                self._in_engine(partial(self._start_closing, INTERNAL_ERROR, "message broken off"))
            raise

    def _send_fragment(self, opcode: int, payload: bytes, fin: bool) -> None:
        if self._codec is None:
            if not self._write_frame(opcode, payload, fin):
                self._check_open()
            return
        with self._codec.sending:
            self._check_open()
            self._write_coded(self._codec.encoder.frame(opcode, payload, fin))

    def _send_held(self) -> None:
        """Send what has waited, in its order, until nothing does."""
        while True:
            with self._moment:
                if not self._held:
                    self._held = None
                    if self._codec is None:
                        self._fragmenting = False
                        self._sendable = self._takes_messages()
                    return
                message, compress = self._held.pop(0)
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
                self._send_held()
                raise


def tell(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    """Set the event of a loop, from any thread; nobody waits for it in a loop that has ended."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(event.set)
