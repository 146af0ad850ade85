"""Bytes to messages and back, for RFC 6455 framing (sections 5.4 to 5.6, 8.1).

`Decoder.feed` takes bytes as they arrive, in pieces of any size, and returns events. `Encoder`
returns the bytes to send. The native counterpart is engine/core/decoder.c.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from . import check
from .assembly import (
    NEED_DATA,
    Assembly,
    Close,
    Event,
    Limits,
    NeedData,
    Ping,
    Pong,
    ProtocolViolation,
    StreamDecoder,
    enforce,
)
from .close_codes import CloseCode
from .deflate import PLAIN, CompressedAssembly, Deflater, Inflater, WireFormat
from .frame import RSV1, FrameStart, Opcode, apply_mask, write_frame


class Decoder(StreamDecoder):
    """Turns the bytes of one peer into events.

    `expect_masked` is True for a server, whose peer must mask, and False for a client. The
    `inflater` is given if permessage-deflate was negotiated (RFC 7692).
    """

    def __init__(
        self, limits: Limits, expect_masked: bool, inflater: Inflater | None = None
    ) -> None:
        super().__init__(limits)
        self._expect_masked = expect_masked
        self.inflater = inflater
        self._start: FrameStart | None = None  # of the data frame whose payload is incomplete
        self._key = b""
        self._length = 0
        self._received = 0  # payload bytes of that frame so far

    @property
    def is_compressed(self) -> bool:
        """Whether the incomplete message, if there is one, is compressed."""
        return isinstance(self._assembly, CompressedAssembly)

    def _read(self) -> Event | NeedData | None:
        return self._read_payload() if self._start else self._read_header()

    def _read_header(self) -> Event | NeedData | None:
        unread = self._unread
        if len(unread) < 2:
            return NEED_DATA
        start = FrameStart.read(unread[0], unread[1])
        in_message, compression = self._assembly is not None, self.inflater is not None
        enforce(check.check_start(start, self._expect_masked, in_message, compression))
        if len(unread) < start.header_size:
            return NEED_DATA
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

    def _read_control(self, start: FrameStart, length: int, key: bytes) -> Event | NeedData:
        end = start.header_size + length
        if len(self._unread) < end:
            return NEED_DATA
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

    def _read_payload(self) -> Event | NeedData | None:
        """Append the available payload of a data frame, so that text fails at its first invalid
        byte."""
        assert self._start is not None
        assert self._assembly is not None
        part = self._take(self._length - self._received)
        if self._key:
            part = apply_mask(part, self._key, self._received)
        self._received += len(part)
        self._assembly.append(part)
        if self._received < self._length:
            return NEED_DATA
        fin, self._start = self._start.fin, None
        return self._finish_message() if fin else None


def read_close(payload: bytes, also_valid: int | None = None) -> Close:
    """Return the close of a body that is empty or has a 2-byte code and a reason (section 5.5.1).

    `also_valid` is a close code that only the connection's version of the protocol has. Raises
    `ProtocolViolation` if the body is invalid.
    """
    if not payload:
        return Close(CloseCode.NO_CODE_RECEIVED, "")
    if len(payload) == 1:
        raise ProtocolViolation(check.SHORT_CLOSE)
    code = int.from_bytes(payload[:2], "big")
    if code != also_valid and not check.is_valid_close_code(code):
        raise ProtocolViolation(check.INVALID_CODE)
    try:
        return Close(code, payload[2:].decode())
    except UnicodeDecodeError:
        raise ProtocolViolation(check.INVALID_REASON) from None


class Encoder:
    """Turns messages into frames.

    With `mask` (a client), each frame has a new masking key from `random_bytes`, which must be
    unpredictable (section 10.3). A server sends unmasked frames. The `deflater` is given if
    permessage-deflate was negotiated (RFC 7692).
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
        """Return one frame of any type."""
        key = self._random_bytes(4) if self._mask else None
        return write_frame(opcode, payload, fin, key)

    def message(self, data: str | bytes, compress: bool | None = None) -> bytes:
        """Return a message in one frame: text for str, binary for bytes.

        If compression was negotiated, `compress` decides whether to use it; None compresses
        messages of at least `Compression.threshold` bytes.
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
        """Reset the compression context: the next message refers to no earlier message."""
        if self.deflater is not None:
            self.deflater.forget()

    def close(self, code: int | None = None, reason: str = "") -> bytes:
        """Return a close frame, without code and reason if `code` is None (section 5.5.1)."""
        return self.frame(Opcode.CLOSE, close_payload(code, reason))

    def answer_close(self, close: Close, initiated: bool) -> bytes:
        """Return the reply to the peer's close frame, which may be empty (section 5.5.1).

        `initiated` is True if this end sent its close frame first.
        """
        if initiated:
            return b""
        return self.close(
            None if close.code == CloseCode.NO_CODE_RECEIVED else close.code, close.reason
        )


def close_payload(code: int | None, reason: str = "") -> bytes:
    """Return the body of a close frame.

    Raises `ValueError` if the code must not be sent or the reason is longer than 123 bytes.
    """
    if code is None:
        return b""
    if not check.is_valid_close_code(code):
        raise ValueError(f"close code {code} must not be sent")
    body = code.to_bytes(2, "big") + reason.encode()
    if len(body) > 125:
        raise ValueError("a close reason must not exceed 123 bytes of UTF-8")
    return body


def fragments(data: Iterator[str | bytes], first: str | bytes) -> Iterator[tuple[int, bytes, bool]]:
    """Yield the frames (opcode, payload, fin) of a message that is given in pieces (section 5.4).

    Reads one piece ahead, so that the last frame has FIN set. Raises `TypeError` if the pieces
    are not all of the type of `first`.
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
