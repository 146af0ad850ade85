"""The rules of RFC 6455, one function or line a sentence, apart from any reading.

Each rule gives a `Violation` (the close code and the reason to fail the connection with)
or None. engine/core/decoder.c keeps the same rules in the same order with the same words;
tests/test_codec_twins.py holds the two together.
"""

from __future__ import annotations

from typing import NamedTuple

from .frame import MAX_CONTROL_PAYLOAD, RSV1, FrameStart, Opcode


class Violation(NamedTuple):
    """The peer broke a rule: fail the connection with this code (RFC 6455 section 7.1.7)."""

    code: int
    reason: str


NORMAL_CLOSURE = 1000
GOING_AWAY = 1001
PROTOCOL_ERROR = 1002
NO_CODE_RECEIVED = 1005
ABNORMAL_CLOSURE = 1006
INVALID_DATA = 1007
POLICY_VIOLATION = 1008
MESSAGE_TOO_BIG = 1009
INTERNAL_ERROR = 1011
SERVICE_RESTART = 1012
TRY_AGAIN_LATER = 1013

RESERVED_BIT = Violation(PROTOCOL_ERROR, "reserved bit set without a negotiated extension")
MISPLACED_RSV1 = Violation(PROTOCOL_ERROR, "RSV1 set on a control or continuation frame")
RESERVED_OPCODE = Violation(PROTOCOL_ERROR, "reserved opcode")
NOT_MASKED = Violation(PROTOCOL_ERROR, "frame from a client is not masked")
MASKED = Violation(PROTOCOL_ERROR, "frame from a server is masked")
FRAGMENTED_CONTROL = Violation(PROTOCOL_ERROR, "control frame is fragmented")
LONG_CONTROL = Violation(PROTOCOL_ERROR, "control frame is longer than 125 bytes")
STRAY_CONTINUATION = Violation(PROTOCOL_ERROR, "continuation frame without a message to continue")
INTERLEAVED_MESSAGE = Violation(PROTOCOL_ERROR, "new message inside a fragmented one")
NEGATIVE_LENGTH = Violation(PROTOCOL_ERROR, "payload length has its most significant bit set")
LONG_LENGTH_FORM = Violation(PROTOCOL_ERROR, "payload length is not in its shortest form")
TOO_BIG = Violation(MESSAGE_TOO_BIG, "message is too big")
TOO_MANY_FRAGMENTS = Violation(POLICY_VIOLATION, "message has too many fragments")
TOO_MANY_EMPTY = Violation(POLICY_VIOLATION, "message has too many empty fragments")
INVALID_TEXT = Violation(INVALID_DATA, "text is not valid UTF-8")
INVALID_DEFLATE = Violation(INVALID_DATA, "compressed data is not valid")
SHORT_CLOSE = Violation(PROTOCOL_ERROR, "close frame with a body of one byte")
INVALID_CODE = Violation(PROTOCOL_ERROR, "close frame with an invalid code")
INVALID_REASON = Violation(INVALID_DATA, "close reason is not valid UTF-8")


def check_start(
    start: FrameStart, expect_masked: bool, in_message: bool, compression: bool = False
) -> Violation | None:
    """What the first two bytes of a frame can break; with `compression` as negotiated."""
    if start.reserved_bits & ~(RSV1 if compression else 0):
        return RESERVED_BIT  # 5.2: MUST be 0 unless an extension defines it
    if start.reserved_bits and (start.is_control or start.opcode == Opcode.CONTINUATION):
        return MISPLACED_RSV1  # RFC 7692 section 6.1: on the first fragment alone
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
    """What the extended payload length can break (5.2: minimal, most significant bit 0)."""
    if length >> 63:
        return NEGATIVE_LENGTH
    if (start.length_size == 2 and length < 126) or (start.length_size == 8 and length < 1 << 16):
        return LONG_LENGTH_FORM
    return None


def is_known_opcode(opcode: int) -> bool:
    return opcode <= Opcode.BINARY or Opcode.CLOSE <= opcode <= Opcode.PONG


def is_valid_close_code(code: int) -> bool:
    """Whether `code` may stand in a close frame (RFC 6455 section 7.4, IANA registry)."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999
