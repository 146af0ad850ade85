"""The frames of hybi-01 to hybi-06, before those of RFC 6455.

byte 0: MORE or FIN, three reserved bits, opcode      opcodes: 0 continuation, 1 close,
byte 1: a reserved bit, 7 bits of length              2 ping, 3 pong, 4 text, 5 binary
then 2 or 8 bytes of length for 126 and 127, then the payload

From hybi-04 on, a client masks the frame, including its header, with a keystream that is derived
from the four bytes before the frame. A `Format` holds the differences between the drafts.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

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
from .check import Violation
from .close_codes import CloseCode
from .frame import MAX_CONTROL_PAYLOAD, OPCODE_BITS, RESERVED_BITS, Opcode, apply_mask

CONTINUATION, CLOSE, PING, PONG, TEXT, BINARY = range(6)

EARLY_OPCODES = {
    Opcode.CONTINUATION: CONTINUATION,
    Opcode.CLOSE: CLOSE,
    Opcode.PING: PING,
    Opcode.PONG: PONG,
    Opcode.TEXT: TEXT,
    Opcode.BINARY: BINARY,
}
FIRST_BIT = 0x80  # of byte 0: MORE or FIN; of byte 1: RSV4
LENGTH_SIZES = {126: 2, 127: 8}
NONCE_SIZE = 4


@dataclass(frozen=True)
class Format:
    """The differences between the drafts that use these frames."""

    has_fin: bool
    """Whether bit 7 of byte 0 means "last fragment" (FIN) rather than "more fragments" (MORE)."""
    keystream: Callable[[bytes, bytes], bytes] | None
    """Takes the four bytes before the frame and the secret; returns the bytes to XOR with,
    repeated as needed. None if clients do not mask."""
    read_close: Callable[[bytes], Close]
    write_close: Callable[[int | None, str, bool], bytes]
    """Takes code, reason and whether this end is the client; returns the body of a close frame."""
    copies_close: bool = False
    """Whether the reply to a close frame is a copy of it."""


def read_cookie(payload: bytes) -> Close:
    """Return the close of hybi-01 to hybi-04, whose body is a cookie that the reply must copy."""
    return Close(CloseCode.NO_CODE_RECEIVED, "", payload)


def write_cookie(_code: int | None, _reason: str, is_client: bool) -> bytes:
    """Return a cookie: any bytes that the other end would not choose."""
    return b"client" if is_client else b"server"


def write_nothing(_code: int | None, _reason: str, _is_client: bool) -> bytes:
    return b""


class EarlyDecoder(StreamDecoder):
    """Decodes these frames. `expect_masked` is True for a server; only from hybi-04 on are frames
    masked."""

    def __init__(self, form: Format, limits: Limits, expect_masked: bool, secret: bytes) -> None:
        super().__init__(limits)
        self._format = form
        self._secret = secret
        self._nonce_size = NONCE_SIZE if expect_masked and form.keystream else 0
        self._header = b""  # of the current frame, as received
        self._key = b""
        self._position = 0  # in the keystream
        self._remaining: int | None = None  # payload bytes of the current frame
        self._fin = True

    def _read(self) -> Event | NeedData | None:
        return self._read_header() if self._remaining is None else self._read_payload()

    def _read_header(self) -> Event | NeedData | None:
        start = self._nonce_size
        if len(self._unread) < start + 2:
            return NEED_DATA
        key = b""
        if start and self._format.keystream is not None:
            key = self._format.keystream(bytes(self._unread[:start]), self._secret)
        first, second = self._unmasked(start, 2, key, 0)
        fin = bool(first & FIRST_BIT) == self._format.has_fin
        opcode, short_length = first & OPCODE_BITS, second & ~FIRST_BIT
        enforce(_check_start(first, second, fin, opcode, self._assembly is not None))
        size = 2 + LENGTH_SIZES.get(short_length, 0)
        if len(self._unread) < start + size:
            return NEED_DATA
        length = int.from_bytes(self._unmasked(start + 2, size - 2, key, 2), "big")
        length = length if size > 2 else short_length
        if length >> 63:
            raise ProtocolViolation(check.NEGATIVE_LENGTH)
        if opcode in (CLOSE, PING, PONG):
            if len(self._unread) < start + size + length:
                return NEED_DATA
            payload = self._unmasked(start + size, length, key, size)
            del self._unread[: start + size + length]
            return self._read_control(opcode, payload)
        self._header = bytes(self._unread[: start + size])
        del self._unread[: start + size]
        self.frames += 1
        if self._assembly is None:
            self._assembly = Assembly(opcode == TEXT, self._limits)
        self._assembly.announce(length, fin)
        self._key, self._position, self._remaining, self._fin = key, size, length, fin
        return None

    def _unmasked(self, start: int, size: int, key: bytes, position: int) -> bytes:
        data = bytes(self._unread[start : start + size])
        return apply_mask(data, key, position) if key else data

    def _read_control(self, opcode: int, payload: bytes) -> Event:
        self.frames += 1
        if opcode == PING:
            return Ping(payload)
        if opcode == PONG:
            return Pong(payload)
        self._finished = True
        return self._format.read_close(payload)

    def _read_payload(self) -> Event | NeedData | None:
        assert self._remaining is not None
        assert self._assembly is not None
        part = self._take(self._remaining)
        if self._key:
            part = apply_mask(part, self._key, self._position)
        self._position += len(part)
        self._remaining -= len(part)
        self._assembly.append(part)
        if self._remaining:
            return NEED_DATA
        self._remaining = None
        return self._finish_message() if self._fin else None


def _check_start(
    first: int, second: int, fin: bool, opcode: int, in_message: bool
) -> Violation | None:
    if first & RESERVED_BITS or second & FIRST_BIT:
        return check.RESERVED_BIT
    if opcode > BINARY:
        return check.RESERVED_OPCODE
    if opcode in (CLOSE, PING, PONG):
        if not fin:
            return check.FRAGMENTED_CONTROL
        if second > MAX_CONTROL_PAYLOAD:
            return check.LONG_CONTROL
    elif opcode == CONTINUATION:
        if not in_message:
            return check.STRAY_CONTINUATION
    elif in_message:
        return check.INTERLEAVED_MESSAGE
    return None


class EarlyEncoder:
    """Encodes these frames; `mask` is True for a client."""

    def __init__(
        self,
        form: Format,
        mask: bool,
        secret: bytes,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._format = form
        self._is_client = mask
        self._secret = secret
        self._random_bytes = random_bytes
        self._cookie = b""

    def message(self, data: str | bytes, _compress: bool | None = None) -> bytes:
        """Return a message in one frame: text for str, binary for bytes."""
        if isinstance(data, str):
            return self.frame(Opcode.TEXT, data.encode())
        return self.frame(Opcode.BINARY, data)

    def wire_format(self, _size: int) -> tuple[str, bool] | None:
        is_masked = self._is_client and self._format.keystream is not None
        return None if is_masked else ("early", self._format.has_fin)

    def forget_context(self) -> None:
        """Do nothing: these versions have no compression."""

    def frame(self, opcode: int, payload: bytes, fin: bool = True) -> bytes:
        """Return one frame of any type."""
        bit = FIRST_BIT if fin == self._format.has_fin else 0
        first, length = bit | EARLY_OPCODES[Opcode(opcode)], len(payload)
        if length < 126:
            frame = bytes((first, length)) + payload
        elif length < 1 << 16:
            frame = bytes((first, 126)) + length.to_bytes(2, "big") + payload
        else:
            frame = bytes((first, 127)) + length.to_bytes(8, "big") + payload
        if not self._is_client or self._format.keystream is None:
            return frame
        nonce = self._random_bytes(NONCE_SIZE)
        return nonce + apply_mask(frame, self._format.keystream(nonce, self._secret))

    def close(self, code: int | None = None, reason: str = "") -> bytes:
        """Return a close frame, with code and reason if the version supports them."""
        self._cookie = self._format.write_close(code, reason, self._is_client)
        return self.frame(Opcode.CLOSE, self._cookie)

    def answer_close(self, close: Close, initiated: bool) -> bytes:
        """Return the reply to the peer's close frame, which may be empty.

        If the version uses cookies, the reply copies the peer's. A reply to this end's close
        frame needs no answer, but a close frame that the peer started does, even if the two
        crossed.
        """
        if self._format.copies_close:
            if initiated and close.cookie in (b"", self._cookie):
                return b""
            return self.frame(Opcode.CLOSE, close.cookie)
        if initiated:
            return b""
        return self.close(None if close.code == CloseCode.NO_CODE_RECEIVED else close.code)
