"""Bytes to messages and back, for RFC 6455 framing (sections 5.4 to 5.6, 8.1).

`Decoder.feed` takes bytes as they arrive, in pieces of any size, and gives events;
`Encoder` gives bytes to send. The native twin is engine/core/decoder.c.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from . import check
from .assembly import (
    STARVED,
    Assembly,
    Broken,
    Close,
    Event,
    Limits,
    Ping,
    Pong,
    Starved,
    StreamDecoder,
    enforce,
)
from .deflate import PLAIN, CompressedAssembly, Deflater, Inflater, WireFormat
from .frame import RSV1, FrameStart, Opcode, apply_mask, write_frame


class Decoder(StreamDecoder):
    """Turns the bytes of one peer into events.

    `expect_masked` is True in a server, whose peer must mask, and False in a client. The
    `inflater` is there if permessage-deflate was negotiated (RFC 7692).
    """

    def __init__(
        self, limits: Limits, expect_masked: bool, inflater: Inflater | None = None
    ) -> None:
        super().__init__(limits)
        self._expect_masked = expect_masked
        self.inflater = inflater
        self._start: FrameStart | None = None  # of the data frame whose payload is arriving
        self._key = b""
        self._length = 0
        self._received = 0  # payload bytes of that frame so far

    def _read(self) -> Event | Starved | None:
        return self._read_payload() if self._start else self._read_header()

    def _read_header(self) -> Event | Starved | None:
        unread = self._unread
        if len(unread) < 2:
            return STARVED
        start = FrameStart.read(unread[0], unread[1])
        in_message, compression = self._assembly is not None, self.inflater is not None
        enforce(check.check_start(start, self._expect_masked, in_message, compression))
        if len(unread) < start.header_size:
            return STARVED
        length = start.payload_length(unread)
        enforce(check.check_length(start, length))
        key = bytes(unread[start.header_size - 4 : start.header_size]) if start.masked else b""
        if start.is_control:
            return self._read_control(start, length, key)
        del unread[: start.header_size]
        self.frames += 1
        if self._assembly is None:
            self._assembly = self._begin_message(start)
        self._assembly.announce(length, start.fin)
        self._start, self._key, self._length, self._received = start, key, length, 0
        return None

    def _begin_message(self, start: FrameStart) -> Assembly:
        is_text = start.opcode == Opcode.TEXT
        if self.inflater is not None and start.reserved_bits & RSV1:
            return CompressedAssembly(is_text, self._limits, self.inflater)
        return Assembly(is_text, self._limits)

    def _read_control(self, start: FrameStart, length: int, key: bytes) -> Event | Starved:
        end = start.header_size + length
        if len(self._unread) < end:
            return STARVED
        payload = bytes(self._unread[start.header_size : end])
        del self._unread[:end]
        self.frames += 1
        if key:
            payload = apply_mask(payload, key)
        if start.opcode == Opcode.PING:
            return Ping(payload)
        if start.opcode == Opcode.PONG:
            return Pong(payload)
        self._finished = True
        return self._read_close(payload)

    def _read_close(self, payload: bytes) -> Close:
        return read_close(payload)

    def _read_payload(self) -> Event | Starved | None:
        """Take what has arrived of a data frame, so that bad text fails at its first bad byte."""
        assert self._start is not None
        assert self._assembly is not None
        part = self._take(self._length - self._received)
        if self._key:
            part = apply_mask(part, self._key, self._received)
        self._received += len(part)
        self._assembly.append(part)
        if self._received < self._length:
            return STARVED
        fin, self._start = self._start.fin, None
        return self._finish_message() if fin else None


def read_close(payload: bytes, also_valid: int | None = None) -> Close:
    """Section 5.5.1: no body, or a code of two bytes and a reason in UTF-8.

    `also_valid` is a code that only the version of the connection has.
    """
    if not payload:
        return Close(check.NO_CODE_RECEIVED, "")
    if len(payload) == 1:
        raise Broken(check.SHORT_CLOSE)
    code = int.from_bytes(payload[:2], "big")
    if code != also_valid and not check.is_valid_close_code(code):
        raise Broken(check.INVALID_CODE)
    try:
        return Close(code, payload[2:].decode())
    except UnicodeDecodeError:
        raise Broken(check.INVALID_REASON) from None


class Encoder:
    """Turns messages into frames.

    With `mask` (a client) every frame gets a fresh masking key from `random_bytes`, which
    must be unpredictable (section 10.3); a server sends unmasked frames. The `deflater` is
    there if permessage-deflate was negotiated (RFC 7692).
    """

    def __init__(
        self,
        mask: bool,
        random_bytes: Callable[[int], bytes] = os.urandom,
        deflater: Deflater | None = None,
    ) -> None:
        self._mask = mask
        self._random_bytes = random_bytes
        self.deflater = deflater

    def frame(self, opcode: int, payload: bytes, fin: bool = True) -> bytes:
        """One frame of any kind."""
        key = self._random_bytes(4) if self._mask else None
        return write_frame(opcode, payload, fin, key)

    def message(self, data: str | bytes, compress: bool | None = None) -> bytes:
        """A whole message in one frame: text for str, binary for bytes.

        Compressed where that was negotiated, if `compress` says so; None leaves it to the
        threshold.
        """
        opcode, payload = Opcode.BINARY, data
        if isinstance(payload, str):
            opcode, payload = Opcode.TEXT, payload.encode()
        deflated = self.deflater.deflate(payload, compress) if self.deflater else None
        if deflated is None:
            return self.frame(opcode, payload)
        return self.frame(opcode | RSV1, deflated)

    def wire_format(self, size: int) -> WireFormat | None:
        """See `versions.version.Encoder`."""
        if self._mask:
            return None
        return self.deflater.wire_format(size) if self.deflater else PLAIN

    def forget_context(self) -> None:
        """What is compressed next refers to no message before it."""
        if self.deflater is not None:
            self.deflater.forget()

    def close(self, code: int | None = None, reason: str = "") -> bytes:
        """A close frame; None for one without a code (section 5.5.1)."""
        return self.frame(Opcode.CLOSE, close_payload(code, reason))

    def answer_close(self, close: Close, initiated: bool) -> bytes:
        """What answers the peer's close frame; `initiated` if it answers ours (section 5.5.1)."""
        if initiated:
            return b""
        return self.close(
            None if close.code == check.NO_CODE_RECEIVED else close.code, close.reason
        )


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
