"""Bytes to messages and back, for RFC 6455 framing (sections 5.4 to 5.6, 8.1).

`Decoder.feed` takes bytes as they arrive, in pieces of any size, and gives events;
`Encoder` gives bytes to send. The native twin is engine/core/decoder.c.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from . import check
from .check import Violation
from .frame import FrameStart, Opcode, apply_mask, write_frame


class Message(NamedTuple):
    """A whole message: str for text, bytes for binary."""

    data: str | bytes


class Ping(NamedTuple):
    payload: bytes


class Pong(NamedTuple):
    payload: bytes


class Close(NamedTuple):
    """The peer's close frame; `code` is 1005 if it had none (section 7.1.5)."""

    code: int
    reason: str


Event = Message | Ping | Pong | Close | Violation


class Limits(Protocol):
    """How much one message may take; `Settings` fits."""

    @property
    def max_message_size(self) -> int: ...
    @property
    def max_fragments(self) -> int: ...
    @property
    def max_empty_fragments(self) -> int: ...


class Decoder:
    """Turns the bytes of one peer into events.

    `expect_masked` is True in a server, whose peer must mask, and False in a client.
    After a `Close` or a `Violation` everything else is ignored (section 5.5.1, 7.1.7).
    """

    def __init__(self, limits: Limits, expect_masked: bool) -> None:
        self._limits = limits
        self._expect_masked = expect_masked
        self._unread = bytearray()
        self._start: FrameStart | None = None  # of the data frame whose payload is arriving
        self._key = b""
        self._length = 0
        self._received = 0  # payload bytes of that frame so far
        self._assembly: _Assembly | None = None
        self._finished = False

    def feed(self, data: bytes | bytearray | memoryview) -> list[Event]:
        """The events that `data` completes; an empty list if it completes none."""
        self._unread += data
        events: list[Event] = []
        try:
            while not self._finished:
                event = self._read_payload() if self._start else self._read_header()
                if isinstance(event, _Starved):
                    break
                if event is not None:
                    events.append(event)
        except _Broken as broken:
            self._finished = True
            events.append(broken.violation)
        if self._finished:
            self._unread.clear()
        return events

    def _read_header(self) -> Event | _Starved | None:
        unread = self._unread
        if len(unread) < 2:
            return _STARVED
        start = FrameStart.read(unread[0], unread[1])
        _enforce(check.check_start(start, self._expect_masked, self._assembly is not None))
        if len(unread) < start.header_size:
            return _STARVED
        length = start.payload_length(unread)
        _enforce(check.check_length(start, length))
        key = bytes(unread[start.header_size - 4 : start.header_size]) if start.masked else b""
        if start.is_control:
            return self._read_control(start, length, key)
        del unread[: start.header_size]
        if self._assembly is None:
            self._assembly = _Assembly(start.opcode, self._limits)
        self._assembly.announce(length, start.fin)
        self._start, self._key, self._length, self._received = start, key, length, 0
        return None

    def _read_control(self, start: FrameStart, length: int, key: bytes) -> Event | _Starved:
        end = start.header_size + length
        if len(self._unread) < end:
            return _STARVED
        payload = bytes(self._unread[start.header_size : end])
        del self._unread[:end]
        if key:
            payload = apply_mask(payload, key)
        if start.opcode == Opcode.PING:
            return Ping(payload)
        if start.opcode == Opcode.PONG:
            return Pong(payload)
        self._finished = True
        return _read_close(payload)

    def _read_payload(self) -> Event | _Starved | None:
        """Take what has arrived of a data frame, so that bad text fails at its first bad byte."""
        assert self._start is not None
        assert self._assembly is not None
        part = bytes(self._unread[: self._length - self._received])
        del self._unread[: len(part)]
        if self._key:
            part = apply_mask(part, self._key, self._received)
        self._received += len(part)
        self._assembly.append(part)
        if self._received < self._length:
            return _STARVED
        fin, self._start = self._start.fin, None
        if not fin:
            return None
        message, self._assembly = self._assembly.finish(), None
        return message


class _Assembly:
    """A message whose fragments are arriving, and what it has used of the limits."""

    def __init__(self, opcode: int, limits: Limits) -> None:
        self._limits = limits
        self._payload = bytearray()
        self._text = codecs.getincrementaldecoder("utf-8")() if opcode == Opcode.TEXT else None
        self._size = self._fragments = self._empty = 0

    def announce(self, length: int, fin: bool) -> None:
        """Check the limits at the frame header, before memory is taken for its payload."""
        limits = self._limits
        if length > limits.max_message_size - self._size:
            raise _Broken(check.TOO_BIG)
        self._size += length
        self._fragments += 1
        if self._fragments > limits.max_fragments:
            raise _Broken(check.TOO_MANY_FRAGMENTS)
        if length == 0 and not fin:
            self._empty += 1
            if self._empty > limits.max_empty_fragments:
                raise _Broken(check.TOO_MANY_EMPTY)

    def append(self, part: bytes) -> None:
        self._payload += part
        self._check_text(part, final=False)

    def finish(self) -> Message:
        self._check_text(b"", final=True)
        return Message(bytes(self._payload) if self._text is None else self._payload.decode())

    def _check_text(self, part: bytes, final: bool) -> None:
        """Section 8.1. Only the verdict is kept: one buffer a message, no object a fragment."""
        if self._text is None:
            return
        try:
            self._text.decode(part, final)
        except UnicodeDecodeError:
            raise _Broken(check.INVALID_TEXT) from None
        # Python looks at the third byte of a surrogate before it refuses it; the second tells.
        unfinished = bytes(self._text.getstate()[0])
        if unfinished[:1] == b"\xed" and unfinished[1:] >= b"\xa0":
            raise _Broken(check.INVALID_TEXT)


def _read_close(payload: bytes) -> Close:
    """Section 5.5.1: no body, or a code of two bytes and a reason in UTF-8."""
    if not payload:
        return Close(check.NO_CODE_RECEIVED, "")
    if len(payload) == 1:
        raise _Broken(check.SHORT_CLOSE)
    code = int.from_bytes(payload[:2], "big")
    if not check.is_valid_close_code(code):
        raise _Broken(check.INVALID_CODE)
    try:
        return Close(code, payload[2:].decode())
    except UnicodeDecodeError:
        raise _Broken(check.INVALID_REASON) from None


def _enforce(violation: Violation | None) -> None:
    if violation is not None:
        raise _Broken(violation)


class _Broken(Exception):
    """A rule was broken; ends `Decoder.feed`."""

    def __init__(self, violation: Violation) -> None:
        self.violation = violation


class _Starved:
    """More bytes are needed before anything else can be said."""


_STARVED = _Starved()


class Encoder:
    """Turns messages into frames.

    With `mask` (a client) every frame gets a fresh masking key from `random_bytes`, which
    must be unpredictable (section 10.3); a server sends unmasked frames.
    """

    def __init__(self, mask: bool, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._mask = mask
        self._random_bytes = random_bytes

    def frame(self, opcode: int, payload: bytes, fin: bool = True) -> bytes:
        """One frame of any kind."""
        key = self._random_bytes(4) if self._mask else None
        return write_frame(opcode, payload, fin, key)

    def message(self, data: str | bytes) -> bytes:
        """A whole message in one frame: text for str, binary for bytes."""
        if isinstance(data, str):
            return self.frame(Opcode.TEXT, data.encode())
        return self.frame(Opcode.BINARY, data)

    def close(self, code: int | None = None, reason: str = "") -> bytes:
        """A close frame; None for one without a code (section 5.5.1)."""
        return self.frame(Opcode.CLOSE, close_payload(code, reason))


def close_payload(code: int | None, reason: str = "") -> bytes:
    """The body of a close frame. Raises `ValueError` for what may not stand in one."""
    if code is None:
        return b""
    if not check.is_valid_close_code(code):
        raise ValueError(f"{code} is not a close code that may be sent")
    body = code.to_bytes(2, "big") + reason.encode()
    if len(body) > 125:
        raise ValueError("a close reason is at most 123 bytes of UTF-8")
    return body


def fragments(data: Iterator[str | bytes], first: str | bytes) -> Iterator[tuple[int, bytes, bool]]:
    """The frames (opcode, payload, fin) of a message given piece by piece (section 5.4).

    Looks one piece ahead, so that the last piece carries FIN. Raises `TypeError` if the
    pieces are not all of the type of the `first`.
    """
    kind: type = str if isinstance(first, str) else bytes
    opcode: int = Opcode.TEXT if kind is str else Opcode.BINARY
    piece = first
    for following in data:
        yield opcode, _encoded(piece, kind), False
        opcode, piece = Opcode.CONTINUATION, following
    yield opcode, _encoded(piece, kind), True


def _encoded(piece: str | bytes, kind: type) -> bytes:
    if isinstance(piece, str) != (kind is str):
        raise TypeError("the fragments of a message must be all str or all bytes-like")
    return piece.encode() if isinstance(piece, str) else bytes(memoryview(piece))
