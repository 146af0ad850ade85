"""The framing rules of RFC 6455, separate from the code that reads frames.

Each check returns a `Violation` (the close code and the reason with which to fail the connection)
or None. engine/core/decoder.c has the same rules in the same order with the same reasons;
tests/protocol/test_codec_parity.py compares the two.
"""

from __future__ import annotations

from typing import NamedTuple

from .close_codes import CloseCode
from .frame import MAX_CONTROL_PAYLOAD, RSV1, FrameStart, Opcode


class Violation(NamedTuple):
    """A rule that the peer violated: fail the connection with this code and reason
    (RFC 6455 section 7.1.7)."""

    code: int
    reason: str


RESERVED_BIT = Violation(
    CloseCode.PROTOCOL_ERROR, "reserved bit set without a negotiated extension"
)
MISPLACED_RSV1 = Violation(CloseCode.PROTOCOL_ERROR, "RSV1 set on a control or continuation frame")
RESERVED_OPCODE = Violation(CloseCode.PROTOCOL_ERROR, "reserved opcode")
NOT_MASKED = Violation(CloseCode.PROTOCOL_ERROR, "frame from a client is not masked")
MASKED = Violation(CloseCode.PROTOCOL_ERROR, "frame from a server is masked")
FRAGMENTED_CONTROL = Violation(CloseCode.PROTOCOL_ERROR, "control frame is fragmented")
LONG_CONTROL = Violation(CloseCode.PROTOCOL_ERROR, "control frame is longer than 125 bytes")
STRAY_CONTINUATION = Violation(
    CloseCode.PROTOCOL_ERROR, "continuation frame without a message to continue"
)
INTERLEAVED_MESSAGE = Violation(CloseCode.PROTOCOL_ERROR, "new message inside a fragmented one")
NEGATIVE_LENGTH = Violation(
    CloseCode.PROTOCOL_ERROR, "payload length has its most significant bit set"
)
LONG_LENGTH_FORM = Violation(CloseCode.PROTOCOL_ERROR, "payload length is not in its shortest form")
TOO_BIG = Violation(CloseCode.MESSAGE_TOO_BIG, "message is too big")
TOO_MANY_FRAGMENTS = Violation(CloseCode.POLICY_VIOLATION, "message has too many fragments")
TOO_MANY_EMPTY = Violation(CloseCode.POLICY_VIOLATION, "message has too many empty fragments")
INVALID_TEXT = Violation(CloseCode.INVALID_DATA, "text is not valid UTF-8")
INVALID_DEFLATE = Violation(CloseCode.INVALID_DATA, "compressed data is not valid")
SHORT_CLOSE = Violation(CloseCode.PROTOCOL_ERROR, "close frame with a body of one byte")
INVALID_CODE = Violation(CloseCode.PROTOCOL_ERROR, "close frame with an invalid code")
INVALID_REASON = Violation(CloseCode.INVALID_DATA, "close reason is not valid UTF-8")


def check_start(
    start: FrameStart, expect_masked: bool, in_message: bool, compression: bool = False
) -> Violation | None:
    """Return the violation in the first two bytes of a frame, None if there is none.

    `compression` tells whether permessage-deflate was negotiated.
    """
    if start.reserved_bits & ~(RSV1 if compression else 0):
        return RESERVED_BIT  # 5.2: MUST be 0 unless an extension defines it
    if start.reserved_bits and (start.is_control or start.opcode == Opcode.CONTINUATION):
        return MISPLACED_RSV1  # RFC 7692 section 6.1: only on the first fragment
    if not is_known_opcode(start.opcode):  # 5.2: unknown opcode: MUST fail the connection
        return RESERVED_OPCODE
    if start.masked != expect_masked:  # 5.1: a client masks, a server does not
        return NOT_MASKED if expect_masked else MASKED
    if start.is_control:
        if not start.fin:  # 5.5: control frames MUST NOT be fragmented
            return FRAGMENTED_CONTROL
        if start.short_length > MAX_CONTROL_PAYLOAD:  # 5.5: 125 bytes or less
            return LONG_CONTROL
    elif start.opcode == Opcode.CONTINUATION:
        if not in_message:  # 5.4: a continuation follows a first fragment
            return STRAY_CONTINUATION
    elif in_message:  # 5.4: fragments of messages MUST NOT be interleaved
        return INTERLEAVED_MESSAGE
    return None


def check_length(start: FrameStart, length: int) -> Violation | None:
    """Return the violation in the extended payload length, None if there is none.

    Section 5.2: the shortest form must be used, and the most significant bit must be 0.
    """
    if length >> 63:
        return NEGATIVE_LENGTH
    if (start.length_size == 2 and length < 126) or (start.length_size == 8 and length < 1 << 16):
        return LONG_LENGTH_FORM
    return None


def is_known_opcode(opcode: int) -> bool:
    return opcode <= Opcode.BINARY or Opcode.CLOSE <= opcode <= Opcode.PONG


def is_valid_close_code(code: int) -> bool:
    """Whether `code` may be sent in a close frame (RFC 6455 section 7.4, IANA registry)."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999
