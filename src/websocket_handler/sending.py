"""Sending on a connection, as far as it is not the channel's: whoever is behind is waited for or
given up, fragments leave one by one, and versions whose codec is in Python have their frames
made here.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from .connection import Connection
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
        self._check_not_in_engine("drain()")
        relieved = threading.Event()
        self._in_engine(partial(self._when_drained, relieved.set))
        in_time = relieved.wait(timeout)
        self._check_open()
        return in_time

    async def adrain(self) -> None:
        """As `drain`, for coroutines."""
        loop = asyncio.get_running_loop()
        relieved = asyncio.Event()
        self._in_engine(partial(self._when_drained, partial(tell, loop, relieved)))
        await relieved.wait()
        self._check_open()

    # Behind the API

    def _check_not_in_engine(self, what: str) -> None:
        if self._engine is not None and self._engine.is_own_thread():
            raise WebSocketError(f"{what} would stop the engine, whose thread this is")

    def _send_otherwise(self, message: Any, compress: bool | None = None) -> None:
        """`send` for whatever the channel does not send by itself: a str or bytes, on a
        connection that is open and keeps up, in a version it has a codec for."""
        self._check_open()
        if isinstance(self._outcome, handshake.Refused):  # the handler does not know it yet
            return
        self._make_room()
        if self._held is not None:
            self._held.append((message, compress))
        elif isinstance(message, str | bytes | bytearray | memoryview):
            self._send_whole(message if isinstance(message, str) else bytes(message), compress)
        elif isinstance(message, Iterable) and not isinstance(message, Mapping):
            self._send_fragments(message)
        else:
            raise TypeError(
                "a message is a str, a bytes-like object, or an iterable of either, "
                f"not {type(message).__name__}"
            )

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
            self._write_message(message, compress)
            return
        with self._codec.sending:
            if self._held is not None:  # a fragmented message has begun meanwhile
                self._held.append((message, compress))
                return
            encoder = self._codec.encoder
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
        if self._held is not None:
            self._held.append((message.data, None))
        else:
            self._send_whole(message.data, None, message)
        return True

    def _send_fragments(self, pieces: Iterable[Any]) -> None:
        """One message, a frame a piece; what others send meanwhile waits for its end."""
        iterator = iter(pieces)
        first: Any = next(iterator, iterator)
        if first is iterator:  # there is none
            return
        self._hold_messages()
        begun = False
        try:
            for opcode, payload, fin in fragments(iterator, first):
                self._check_open()
                self._make_room()
                self._send_frame(opcode, payload, fin)
                begun = True
            self._count(messages_sent=self._codec is not None)  # else the channel has
        except BaseException:
            if begun and self._state is not State.CLOSED:  # the message can never be completed
                self._in_engine(partial(self._start_closing, INTERNAL_ERROR, "message broken off"))
            raise
        finally:
            is_open = self._state in (State.CONNECTING, State.OPEN)
            self._sendable = is_open and self._codec is None
            held, self._held = self._held, None
        for message, compress in held or ():
            self.send(message, compress)

    def _hold_messages(self) -> None:
        """What is sent from now on waits; a message that is being compressed still leaves."""
        if self._codec is None:
            self._held = []
            self._stop_sending()
        else:
            with self._codec.sending:
                self._held = []


def tell(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    """Set the event of a loop, from any thread; nobody waits for it in a loop that has ended."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(event.set)
