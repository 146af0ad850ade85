"""Masked frames with a message."""

from __future__ import annotations

from websocket_handler.protocol.frame import Opcode, write_frame

KEY = b"\x01\x02\x03\x04"


def frame(message: str | bytes) -> bytes:
    opcode = Opcode.TEXT if isinstance(message, str) else Opcode.BINARY
    return write_frame(opcode, message.encode() if isinstance(message, str) else message, key=KEY)
