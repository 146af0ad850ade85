"""What the decoders of all versions share: reading a stream, and putting messages together."""

from __future__ import annotations

import codecs
from typing import NamedTuple, Protocol

from . import check
from .check import Violation


class Message(NamedTuple):
    """A whole message: str for text, bytes for binary."""

    data: str | bytes


class Ping(NamedTuple):
    payload: bytes


class Pong(NamedTuple):
    payload: bytes


class Close(NamedTuple):
    """The peer's close frame; `code` is 1005 if it had none (RFC 6455 section 7.1.5).

    `cookie` is what its answer must repeat, in the versions whose answer repeats something.
    """

    code: int
    reason: str
    cookie: bytes = b""


class Completed(NamedTuple):
    """The rest of a handshake has come; send `response` and the connection is open."""

    response: bytes


Event = Message | Ping | Pong | Close | Violation | Completed


class Limits(Protocol):
    """How much one message may take; `Settings` fits."""

    @property
    def max_message_size(self) -> int: ...
    @property
    def max_fragments(self) -> int: ...
    @property
    def max_empty_fragments(self) -> int: ...


class Broken(Exception):
    """A rule was broken; ends `StreamDecoder.feed`."""

    def __init__(self, violation: Violation) -> None:
        self.violation = violation


class Starved:
    """More bytes are needed before anything else can be said."""


STARVED = Starved()


def enforce(violation: Violation | None) -> None:
    if violation is not None:
        raise Broken(violation)


class StreamDecoder:
    """Turns the bytes of one peer into events; a version says how to `_read` the next one.

    After a `Close` or a `Violation` everything else is ignored (RFC 6455 sections 5.5.1 and
    7.1.7).
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._unread = bytearray()
        self._assembly: Assembly | None = None
        self._finished = False
        self.frames = 0
        """How many came so far."""

    def feed(self, data: bytes | bytearray | memoryview) -> list[Event]:
        """The events that `data` completes; an empty list if it completes none."""
        self._unread += data
        events: list[Event] = []
        try:
            while not self._finished:
                event = self._read()
                if isinstance(event, Starved):
                    break
                if event is not None:
                    events.append(event)
        except Broken as broken:
            self._finished = True
            events.append(broken.violation)
        if self._finished:
            self._unread.clear()
        return events

    def _read(self) -> Event | Starved | None:
        raise NotImplementedError

    def _take(self, size: int) -> bytes:
        """At most the next `size` bytes of what has arrived, which are read then."""
        taken = bytes(self._unread[:size])
        del self._unread[: len(taken)]
        return taken

    def _finish_message(self) -> Message:
        assert self._assembly is not None
        message, self._assembly = self._assembly.finish(), None
        return message


class Assembly:
    """A message whose parts are arriving, and what it has used of the limits.

    Bad text breaks section 8.1, unless the version `mends_text` with U+FFFD.
    """

    def __init__(self, is_text: bool, limits: Limits, mends_text: bool = False) -> None:
        self._limits = limits
        self._payload = bytearray()
        self._is_text = is_text
        checks = is_text and not mends_text
        self._text = codecs.getincrementaldecoder("utf-8")() if checks else None
        self._size = self._fragments = self._empty = 0

    def announce(self, length: int, fin: bool) -> None:
        """Check the limits at the frame header, before memory is taken for its payload."""
        limits = self._limits
        self.grow(length)
        self._fragments += 1
        if self._fragments > limits.max_fragments:
            raise Broken(check.TOO_MANY_FRAGMENTS)
        if length == 0 and not fin:
            self._empty += 1
            if self._empty > limits.max_empty_fragments:
                raise Broken(check.TOO_MANY_EMPTY)

    def grow(self, length: int) -> None:
        """Check that the message may become `length` bytes longer."""
        if length > self._limits.max_message_size - self._size:
            raise Broken(check.TOO_BIG)
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
        """Section 8.1. Only the verdict is kept: one buffer a message, no object a fragment."""
        if self._text is None:
            return
        try:
            self._text.decode(part, final)
        except UnicodeDecodeError:
            raise Broken(check.INVALID_TEXT) from None
        # Python looks at the third byte of a surrogate before it refuses it; the second tells.
        unfinished = bytes(self._text.getstate()[0])
        if unfinished[:1] == b"\xed" and unfinished[1:] >= b"\xa0":
            raise Broken(check.INVALID_TEXT)
