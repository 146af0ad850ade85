"""Compressing and decompressing messages (RFC 7692 section 7.2), by the standard library's zlib.

An `Inflater` and a `Deflater` belong to one connection; with context takeover they remember
what the messages before were made of. The native twin is engine/core/deflate.c.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, TypeAlias

from . import check
from .assembly import Assembly, Broken, Limits, Message

if TYPE_CHECKING:
    from zlib import _Compress, _Decompress

TAIL = b"\x00\x00\xff\xff"
"""What a flush ends with, and what is left out of the payload (section 7.2.1)."""

LAST_BLOCK = b"\x01\x00\x00\xff\xff"
"""With BFINAL, without compression, and empty."""

LEAST_WINDOW_BITS = 9
"""zlib has no window of 256 bytes to compress with. But it looks back over 262 bytes less
than its window has, which for 9 bits is 250: such a stream needs no more than 8 bits."""

WireFormat: TypeAlias = tuple[int, int, int]
"""Window bits, level and memory level: by these, two compressed frames are the same."""

PLAIN: WireFormat = (0, 0, 0)
"""Not compressed."""

PIECE = 1024  # bytes inflated at once: what follows the end of a stream is copied


class Inflater:
    """Decompresses the messages of one peer."""

    def __init__(self, window_bits: int, takeover: bool) -> None:
        self._window_bits = window_bits
        self._takeover = takeover
        self._stream: _Decompress | None = None
        self._begun = False  # whether the message has used the stream it will end in

    def inflate(self, part: bytes, room: int) -> bytes:
        """The bytes that the next `part` of a message stands for, at most `room`.

        Ends with 1009 as soon as there are more, and with 1007 for a bad stream.
        """
        output = bytearray()
        for start in range(0, len(part), PIECE):
            piece = part[start : start + PIECE]
            while piece:
                stream = self._stream = self._stream or zlib.decompressobj(-self._window_bits)
                self._begun = True
                try:
                    output += stream.decompress(piece, room + 1 - len(output))
                except zlib.error:
                    raise Broken(check.INVALID_DEFLATE) from None
                if len(output) > room:
                    raise Broken(check.TOO_BIG)
                piece = stream.unused_data
                if stream.eof:  # a block with BFINAL (7.2.3.4): another stream may follow
                    self._stream, self._begun = None, False
        return bytes(output)

    def flush(self, room: int) -> bytes:
        """What is left when the payload of a message is complete.

        A payload that is empty stands for an empty message, as some peers send it.
        """
        return self.inflate(TAIL, room) if self._begun else b""

    def finish(self) -> None:
        """Get ready for the next message; ends with 1007 if this one was broken off."""
        if self._begun and not self._is_between_blocks():
            raise Broken(check.INVALID_DEFLATE)
        self._begun = False
        if not self._takeover:
            self._stream = None

    def _is_between_blocks(self) -> bool:
        """Whether the message ended where a block did, on a byte boundary: whether nothing
        but an empty last block is missing."""
        assert self._stream is not None
        probe = self._stream.copy() if self._takeover else self._stream
        try:
            output = probe.decompress(LAST_BLOCK)
        except zlib.error:
            return False
        return probe.eof and not output and not probe.unused_data


class Deflater:
    """Compresses the messages to one peer, those of at least `threshold` bytes."""

    def __init__(
        self, window_bits: int, takeover: bool, level: int, memory_level: int, threshold: int
    ) -> None:
        self._window_bits = max(window_bits, LEAST_WINDOW_BITS)
        self._takeover = takeover
        self._level = level
        self._memory_level = memory_level
        self._threshold = threshold
        self._stream: _Compress | None = None

    def deflate(self, data: bytes, compress: bool | None = None) -> bytes | None:
        """The payload that stands for `data`; None if it is to be sent as it is: if it is
        below the threshold (unless `compress` says otherwise) or does not shrink.

        In the second case what was remembered is forgotten: the peer does not see it.
        """
        if compress is False or (compress is None and len(data) < self._threshold):
            return None
        stream, self._stream = self._stream, None
        if stream is None:
            stream = zlib.compressobj(
                self._level, zlib.DEFLATED, -self._window_bits, self._memory_level
            )
        flushed = stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH)
        payload = flushed.removesuffix(TAIL)
        if len(payload) >= len(data):
            return None
        if self._takeover:
            self._stream = stream
        return payload

    def wire_format(self, size: int) -> WireFormat:
        """Of a message of `size` bytes, if it refers to none before."""
        if size < self._threshold:
            return PLAIN
        return self._window_bits, self._level, self._memory_level

    def forget(self) -> None:
        """What comes next refers to no message before it."""
        self._stream = None


class CompressedAssembly(Assembly):
    """A message whose compressed parts are arriving; the limit holds for what they become.

    Their own size is bounded too, by what a message of the greatest size can need, so that
    nobody can have us read blocks of nothing for ever.
    """

    def __init__(self, is_text: bool, limits: Limits, inflater: Inflater) -> None:
        super().__init__(is_text, limits)
        self._inflater = inflater

    def grow(self, length: int) -> None:
        most = self._limits.max_message_size
        if length > most + (most >> 3) + 64 - self._size:
            raise Broken(check.TOO_BIG)
        self._size += length

    def append(self, part: bytes) -> None:
        super().append(self._inflater.inflate(part, self._room()))

    def finish(self) -> Message:
        super().append(self._inflater.flush(self._room()))
        self._inflater.finish()
        return super().finish()

    def _room(self) -> int:
        return self._limits.max_message_size - len(self._payload)
