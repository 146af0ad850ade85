"""The parts that the decoders of all versions share: stream reading and message assembly."""

from __future__ import annotations

import codecs
from typing import NamedTuple, Protocol

from . import check
from .check import Violation


class Message(NamedTuple):
    """A complete message: str for text, bytes for binary."""

    data: str | bytes


class Ping(NamedTuple):
    payload: bytes


class Pong(NamedTuple):
    payload: bytes


class Close(NamedTuple):
    """The peer's close frame; `code` is 1005 if it had none (RFC 6455 section 7.1.5).

    `cookie` is the body that the reply must repeat, in the versions that require this.
    """

    code: int
    reason: str
    cookie: bytes = b""


class Completed(NamedTuple):
    """The last bytes of a handshake have arrived: once `response` is sent, the connection is
    open."""

    response: bytes


Event = Message | Ping | Pong | Close | Violation | Completed


class Limits(Protocol):
    """The limits of one message; `Settings` has these attributes."""

    @property
    def max_message_size(self) -> int: ...
    @property
    def max_fragments(self) -> int: ...
    @property
    def max_empty_fragments(self) -> int: ...


class ProtocolViolation(Exception):
    """Raised within a decoder when the peer violates a rule; `feed` turns it into an event."""

    def __init__(self, violation: Violation) -> None:
        self.violation = violation


class NeedData:
    """The result of a decoder that needs more bytes before it can return an event."""


NEED_DATA = NeedData()


def enforce(violation: Violation | None) -> None:
    """Raise `ProtocolViolation` unless `violation` is None."""
    if violation is not None:
        raise ProtocolViolation(violation)


class StreamDecoder:
    """Turns the bytes of one peer into events; subclasses implement `_read` for their framing.

    All bytes after a `Close` or a `Violation` are ignored (RFC 6455 sections 5.5.1 and 7.1.7).
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._unread = bytearray()
        self._assembly: Assembly | None = None
        self._finished = False
        self.frames = 0
        """The number of frames received so far."""

    def feed(self, data: bytes | bytearray | memoryview) -> list[Event]:
        """Return the events that `data` completes, possibly none."""
        self._unread += data
        events: list[Event] = []
        try:
            while not self._finished:
                event = self._read()
                if isinstance(event, NeedData):
                    break
                if event is not None:
                    events.append(event)
        except ProtocolViolation as error:
            self._finished = True
            events.append(error.violation)
        if self._finished:
            self._unread.clear()
        return events

    def _read(self) -> Event | NeedData | None:
        """Read on in `_unread` and return the next event, or None if there is none yet.

        Returns `NEED_DATA` if more bytes are needed.
        """
        raise NotImplementedError

    def _take(self, size: int) -> bytes:
        """Remove and return at most `size` bytes of the unread data."""
        taken = bytes(self._unread[:size])
        del self._unread[: len(taken)]
        return taken

    def _finish_message(self) -> Message:
        assert self._assembly is not None
        message, self._assembly = self._assembly.finish(), None
        return message


class Assembly:
    """An incomplete message, and how much of the limits it has used.

    Invalid UTF-8 violates section 8.1, unless `replaces_invalid_utf8`: then U+FFFD replaces it.
    """

    def __init__(self, is_text: bool, limits: Limits, replaces_invalid_utf8: bool = False) -> None:
        self._limits = limits
        self._payload = bytearray()
        self._is_text = is_text
        checks = is_text and not replaces_invalid_utf8
        self._text = codecs.getincrementaldecoder("utf-8")() if checks else None
        self._size = self._fragments = self._empty = 0

    def announce(self, length: int, fin: bool) -> None:
        """Check the limits at the frame header, before memory is allocated for its payload."""
        limits = self._limits
        self.grow(length)
        self._fragments += 1
        if self._fragments > limits.max_fragments:
            raise ProtocolViolation(check.TOO_MANY_FRAGMENTS)
        if length == 0 and not fin:
            self._empty += 1
            if self._empty > limits.max_empty_fragments:
                raise ProtocolViolation(check.TOO_MANY_EMPTY)

    def grow(self, length: int) -> None:
        """Add `length` bytes to the size of the message, if the limit allows it."""
        if length > self._limits.max_message_size - self._size:
            raise ProtocolViolation(check.TOO_BIG)
        self._size += length

    def append(self, part: bytes) -> None:
        self._payload += part
        self._check_text(part, final=False)

    def finish(self) -> Message:
        self._check_text(b"", final=True)
        return Message(
            self._payload.decode(errors="replace") if self._is_text else bytes(self._payload)
        )

    def _check_text(self, part: bytes, final: bool) -> None:
        """Check the UTF-8 of a text message (section 8.1).

        The decoded text is discarded: the message is decoded once, when it is complete.
        """
        if self._text is None:
            return
        try:
            self._text.decode(part, final)
        except UnicodeDecodeError:
            raise ProtocolViolation(check.INVALID_TEXT) from None
        # Python rejects a surrogate at its third byte; the second already shows that it is one.
        unfinished = bytes(self._text.getstate()[0])
        if unfinished[:1] == b"\xed" and unfinished[1:] >= b"\xa0":
            raise ProtocolViolation(check.INVALID_TEXT)
