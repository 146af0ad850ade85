"""A message on its way to many connections."""

from __future__ import annotations

from collections.abc import Hashable

from .frame import RSV1
from .versions.version import Encoder


class PreparedMessage:
    """A message whose frame is made once for each wire format, and compressed once for each
    way of compressing, however many connections get it.

    Raises `TypeError` for anything but str and bytes-like.
    """

    __slots__ = ("data", "frames", "size")

    def __init__(self, data: str | bytes | bytearray | memoryview) -> None:
        if isinstance(data, str):
            self.size = len(data.encode())
        elif isinstance(data, bytes | bytearray | memoryview):
            data = bytes(data)
            self.size = len(data)
        else:
            raise TypeError(f"a message is a str or bytes-like, not {type(data).__name__}")
        self.data: str | bytes = data
        self.frames: dict[Hashable, bytes] = {}
        """By wire format, as far as they are made; see `Encoder.wire_format`."""

    def frame_for(self, encoder: Encoder) -> bytes:
        """What `encoder` would make of the message on a connection that has sent nothing yet;
        afterwards it remembers nothing that the peer could not know in that place."""
        wire_format = encoder.wire_format(self.size)
        if wire_format is None:
            return encoder.message(self.data)
        frame = self.frames.get(wire_format)
        if frame is None:
            encoder.forget_context()
            frame = self.frames[wire_format] = encoder.message(self.data)
        if frame[0] & RSV1:
            encoder.forget_context()
        return frame
