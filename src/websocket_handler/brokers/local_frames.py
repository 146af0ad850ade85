"""The frames between the processes of local:// rooms: a head of 7 bytes, a channel and data.

A reader skips kinds of frames that it does not know: a newer version may send them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence

HEAD = struct.Struct(">IBH")  # length of channel and data, kind, length of the channel

HELLO = 1
"""The data is the name of the sender's socket. The SUBSCRIBE frames before it name all channels
that the sender has joined so far."""
SUBSCRIBE, UNSUBSCRIBE = 2, 3
"""The data is a list of channels, one a line."""
MESSAGE = 4
"""The data is an envelope that is not in the history."""
STORED = 5
"""The data is a `PLACE` in the history, followed by an envelope."""

PLACE = struct.Struct(">QQQ")  # epoch of the history, position, position of the previous message

MAX_ENVELOPE_BYTES = 1 << 24
MAX_FRAME_BYTES = MAX_ENVELOPE_BYTES + (1 << 16) + PLACE.size
"""The maximum length of channel and data together."""

CHANNELS_PER_FRAME = 10_000

Frame = tuple[int, bytes, bytes]
"""Kind, channel, data."""


def frame(kind: int, channel: bytes, data: bytes) -> bytes:
    """Return the bytes of a frame."""
    return b"".join((HEAD.pack(len(channel) + len(data), kind, len(channel)), channel, data))


def channel_frames(kind: int, channels: Sequence[str]) -> Iterator[bytes]:
    """Return the frames that name `channels`: SUBSCRIBE or UNSUBSCRIBE."""
    for begin in range(0, len(channels), CHANNELS_PER_FRAME):
        yield frame(kind, b"", "\n".join(channels[begin : begin + CHANNELS_PER_FRAME]).encode())


def channels_of(data: bytes) -> Iterable[str]:
    return data.decode().split("\n")


class FrameReader:
    """Splits the bytes of one connection into frames."""

    __slots__ = ("_rest", "_wanted")

    def __init__(self) -> None:
        self._rest = bytearray()
        self._wanted = HEAD.size

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that are complete. Raises `ValueError` if a frame is too long."""
        buffer: bytes | bytearray = data
        if self._rest:
            self._rest += data
            buffer = self._rest
        frames: list[Frame] = []
        begin, size = 0, len(buffer)
        while size - begin >= self._wanted:
            length, kind, channel_length = HEAD.unpack_from(buffer, begin)
            if length > MAX_FRAME_BYTES or channel_length > length:
                raise ValueError(f"a frame of {length} bytes with a channel of {channel_length}")
            end = begin + HEAD.size + length
            if end > size:
                self._wanted = HEAD.size + length
                break
            self._wanted = HEAD.size
            data_begin = begin + HEAD.size + channel_length
            frames.append(
                (
                    kind,
                    bytes(buffer[begin + HEAD.size : data_begin]),
                    bytes(buffer[data_begin:end]),
                )
            )
            begin = end
        if buffer is self._rest:
            del self._rest[:begin]
        else:
            self._rest += buffer[begin:]
        return frames
