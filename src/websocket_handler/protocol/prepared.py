"""A message that is sent to many connections."""

from __future__ import annotations

from collections.abc import Hashable

from .frame import RSV1
from .versions.version import Encoder


class PreparedMessage:
    """A message that is framed and compressed once per wire format, however many connections it
    is sent to.

    Raises `TypeError` unless `data` is a str or bytes-like.
    """

    __slots__ = ("data", "frames", "size")

    def __init__(self, data: str | bytes | bytearray | memoryview) -> None:
        self.size: int
        if isinstance(data, str):
            self.size = len(data.encode())
        elif isinstance(data, bytes | bytearray | memoryview):
            data = bytes(data)
            self.size = len(data)
        else:
            raise TypeError(f"a message is a str or bytes-like, not {type(data).__name__}")
        self.data: str | bytes = data
        self.frames: dict[Hashable, bytes] = {}
        """The frames made so far, by wire format; see `Encoder.wire_format`."""

    def frame_for(self, encoder: Encoder) -> bytes:
        """Return the message as a frame for `encoder`, compressed with an empty context.

        Resets the compression context of `encoder` if the frame is compressed: the peer's context
        then holds this message, and the encoder's may not.
        """
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
