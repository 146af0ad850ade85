"""The frame: its header and its masking (RFC 6455 sections 5.2 and 5.3).

This module handles one frame at a time. `check` decides whether a frame is allowed, `message`
interprets it. The native counterparts are engine/core/frame.c and mask.c.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Opcode(IntEnum):
    """The type of a frame (RFC 6455 section 11.8)."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


FIN = 0x80
RESERVED_BITS = 0x70
RSV1 = 0x40  # the message is compressed (RFC 7692 section 6)
OPCODE_BITS = 0x0F
CONTROL_BIT = 0x08
MASK = 0x80
LENGTH_BITS = 0x7F
LENGTH_IN_2_BYTES = 126
LENGTH_IN_8_BYTES = 127
MAX_CONTROL_PAYLOAD = 125


class FrameStart(NamedTuple):
    """The fields of the first two bytes of a frame, which suffice to reject most invalid frames."""

    fin: bool
    reserved_bits: int
    opcode: int
    masked: bool
    short_length: int

    @classmethod
    def read(cls, first: int, second: int) -> FrameStart:
        return cls(
            fin=bool(first & FIN),
            reserved_bits=first & RESERVED_BITS,
            opcode=first & OPCODE_BITS,
            masked=bool(second & MASK),
            short_length=second & LENGTH_BITS,
        )

    @property
    def is_control(self) -> bool:
        return bool(self.opcode & CONTROL_BIT)

    @property
    def length_size(self) -> int:
        """The size of the extended payload length in bytes: 0, 2 or 8."""
        return {LENGTH_IN_2_BYTES: 2, LENGTH_IN_8_BYTES: 8}.get(self.short_length, 0)

    @property
    def header_size(self) -> int:
        """The size of the header in bytes, including the masking key: 2 to 14."""
        return 2 + self.length_size + (4 if self.masked else 0)

    def payload_length(self, header: bytes | bytearray) -> int:
        """Return the payload length, 0 to 2**64 - 1, from the `header_size` bytes of the header."""
        if not self.length_size:
            return self.short_length
        return int.from_bytes(header[2 : 2 + self.length_size], "big")


def write_frame(opcode: int, payload: bytes, fin: bool = True, key: bytes | None = None) -> bytes:
    """Return one frame, masked if `key` is given: 4 bytes, as a client must use (section 5.3).

    `opcode` may include RSV1.
    """
    header = write_header(opcode, len(payload), fin, key)
    return header + (payload if key is None else apply_mask(payload, key))


def write_header(opcode: int, length: int, fin: bool = True, key: bytes | None = None) -> bytes:
    """Return the header of a frame with a payload of `length` bytes; see `write_frame`."""
    masked = MASK if key else 0
    if length < LENGTH_IN_2_BYTES:
        header = bytes(((FIN if fin else 0) | opcode, masked | length))
    elif length < 1 << 16:
        header = bytes(((FIN if fin else 0) | opcode, masked | LENGTH_IN_2_BYTES))
        header += length.to_bytes(2, "big")
    else:
        header = bytes(((FIN if fin else 0) | opcode, masked | LENGTH_IN_8_BYTES))
        header += length.to_bytes(8, "big")
    return header + (key or b"")


def apply_mask(payload: bytes, key: bytes, position: int = 0) -> bytes:
    """Mask or unmask: octet i is XORed with octet (position + i) mod N of the key.

    N is the length of the key: 4, or 20 in hybi-04.
    """
    position %= len(key)
    pattern = (key[position:] + key[:position]) * (len(payload) // len(key) + 1)
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(pattern[: len(payload)], "big")
    return masked.to_bytes(len(payload), "big")
