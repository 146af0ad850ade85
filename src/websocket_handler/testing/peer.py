"""The test's end of a WebSocket, written once for both clients: as coroutines, over `Waits`."""

from __future__ import annotations

import time
from collections import deque

from ..connection.limits import exceeded_limit
from ..errors import ConnectionClosed, ProtocolError, UnsupportedByVersion, WebSocketError
from ..protocol.assembly import Close, Event, Message, Ping, Pong
from ..protocol.check import Violation
from ..protocol.client import Established
from ..protocol.close_codes import CloseCode
from ..protocol.frame import MAX_CONTROL_PAYLOAD, Opcode
from ..protocol.message import close_payload
from ..protocol.versions import Version
from ..settings import Settings
from .codec import make_codec
from .failures import Failures
from .stream import Stream
from .waiting import seconds


class Peer:
    """A client of the application, which answers pings and close frames whenever it reads.

    It reads while it waits for anything, and when the client's clock is advanced. `timeout` is the
    limit of a wait, in seconds, unless a call has its own.
    """

    def __init__(
        self,
        path: str,
        stream: Stream,
        version: Version,
        settings: Settings,
        established: Established,
        failures: Failures,
        timeout: float,
    ) -> None:
        self.path = path
        self._stream = stream
        self._version = version
        self._failures = failures
        self._timeout = timeout
        self._settings = settings
        self._decoder, self._encoder = make_codec(version, settings, established)
        self._messages: deque[str | bytes] = deque()
        self._pongs: deque[bytes] = deque(maxlen=100)
        self._violation: ProtocolError | None = None
        self._is_close_sent = False
        self._close: Close | None = None
        self.established = established
        stream.on_data = self._feed
        if established.rest:
            self._feed(established.rest)

    @property
    def close(self) -> Close | None:
        """How the connection has closed; None while it is open."""
        if self._close is not None:
            return self._close
        return Close(CloseCode.ABNORMAL_CLOSURE, "") if self._stream.has_ended else None

    @property
    def is_closed(self) -> bool:
        return self._stream.has_ended

    # Sending

    async def send(self, message: str | bytes, timeout: float | None = None) -> None:
        if not isinstance(message, str | bytes | bytearray | memoryview):
            raise TypeError(f"a message is a str or bytes-like, not {type(message).__name__}")
        self._check_open()
        await self._write(self._encoder.message(message), timeout)

    async def send_raw(self, data: bytes, timeout: float | None = None) -> None:
        self._check_open()
        await self._write(data, timeout)

    async def ping(self, payload: str | bytes = b"", timeout: float | None = None) -> None:
        payload = payload.encode() if isinstance(payload, str) else bytes(memoryview(payload))
        if len(payload) > MAX_CONTROL_PAYLOAD:
            raise ValueError(f"the payload of a ping is at most {MAX_CONTROL_PAYLOAD} bytes")
        if not self._version._has_pings:
            raise UnsupportedByVersion(f"{self._version} has no pings")
        self._check_open()
        until = self._until(timeout)
        self._pongs.clear()
        await self._write(self._encoder.frame(Opcode.PING, payload), timeout)
        while payload not in self._pongs:
            await self._read(until, timeout, "a pong")

    async def _write(self, data: bytes, timeout: float | None) -> None:
        if not await self._stream.write(data, self._until(timeout)):
            self._failures.raise_first()
            raise self._timed_out(timeout, "the application to read what was sent")

    def _check_open(self) -> None:
        """Raise if the connection is known to have closed. Reads the received data first."""
        if self._stream.is_reading:
            self._stream.read_now()
        if self.close is not None:
            self._raise_end()

    # Receiving

    async def receive(self, timeout: float | None = None) -> str | bytes:
        until = self._until(timeout)
        while not self._messages:
            await self._read(until, timeout, "a message")
        return self._messages.popleft()

    async def _read(self, until: float, timeout: float | None, awaited: str) -> None:
        """Read once. Raises if nothing arrives by `until`, or can arrive any more."""
        if self.close is not None or self._violation is not None:
            self._raise_end()
        if not self._stream.is_reading:
            raise WebSocketError(f"cannot wait for {awaited}: call resume_reading() first")
        if not await self._stream.read(until):
            self._failures.raise_first()
            raise self._timed_out(timeout, awaited)

    def _raise_end(self) -> None:
        self._failures.raise_first()
        if self._violation is not None:
            raise self._violation
        assert self.close is not None
        raise ConnectionClosed(self.close.code, self.close.reason)

    def stop_reading(self) -> None:
        self._stream.is_reading = False

    def resume_reading(self) -> None:
        self._stream.is_reading = True

    def read_now(self) -> None:
        """Read once, without waiting, and answer pings."""
        if self._stream.is_reading:
            self._stream.read_now()

    def _feed(self, data: bytes) -> None:
        for event in self._decoder.feed(data):
            self._take(event)

    def _take(self, event: Event) -> None:
        if isinstance(event, Message):
            self._messages.append(event.data)
        elif isinstance(event, Ping):
            self._stream.write_now(self._encoder.frame(Opcode.PONG, event.payload))
        elif isinstance(event, Pong):
            self._pongs.append(event.payload)
        elif isinstance(event, Close):
            self._take_close(event)
        elif isinstance(event, Violation):
            limit = exceeded_limit(event.reason, self._settings)
            reason = f"{event.reason}: {limit}" if limit else event.reason
            self._violation = ProtocolError(event.code, reason)

    def _take_close(self, close: Close) -> None:
        is_initiator, self._is_close_sent = self._is_close_sent, True
        self._stream.write_now(self._encoder.answer_close(close, is_initiator))
        codes = {former: present for present, former in self._version._close_codes}
        self._close = close._replace(code=codes.get(close.code, close.code))

    # Closing

    async def start_closing(self, code: int, reason: str, timeout: float | None) -> None:
        """Send a close frame, unless one was sent or received."""
        close_payload(code, reason)
        if self._is_close_sent or self._stream.has_ended:
            return
        self._is_close_sent = True
        if not self._version._has_close:
            self._stream.end_output()
            return
        code = dict(self._version._close_codes).get(code, code)
        await self._write(self._encoder.close(code, reason), timeout)

    async def wait_closed(self, timeout: float | None = None) -> None:
        until = self._until(timeout)
        while not self._stream.has_ended:
            if not self._stream.is_reading:
                raise WebSocketError("cannot wait for the close: call resume_reading() first")
            if not await self._stream.read(until):
                self._failures.raise_first()
                raise self._timed_out(timeout, "the end of the connection")

    def drop(self) -> None:
        """Close the socket, without a closing handshake."""
        self._stream.close()

    def _until(self, timeout: float | None) -> float:
        return time.monotonic() + (self._timeout if timeout is None else timeout)

    def _timed_out(self, timeout: float | None, awaited: str) -> TimeoutError:
        limit = seconds(self._timeout if timeout is None else timeout)
        return TimeoutError(f"{self.path}: waited {limit} for {awaited}")
