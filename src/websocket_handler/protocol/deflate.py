"""Compression and decompression of messages (RFC 7692 section 7.2) with the standard `zlib`.

Each connection has its own `Inflater` and `Deflater`. With context takeover they keep their
zlib stream from message to message. The native counterpart is engine/core/deflate.c.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, TypeAlias

from . import check
from .assembly import Assembly, Limits, Message, ProtocolViolation

if TYPE_CHECKING:
    from zlib import _Compress, _Decompress

TAIL = b"\x00\x00\xff\xff"
"""The end of a zlib sync flush, which is removed from the payload (section 7.2.1)."""

LAST_BLOCK = b"\x01\x00\x00\xff\xff"
"""An empty uncompressed block with BFINAL set."""

MIN_WINDOW_BITS = 9
"""zlib cannot compress with a window of 256 bytes. But it looks back over 262 bytes less than its
window size. With 9 bits this is 250 bytes, which a peer can decompress with a window of 8 bits."""

WireFormat: TypeAlias = tuple[int, int, int]
"""Window bits, level and memory level: equal values produce equal compressed frames."""

PLAIN: WireFormat = (0, 0, 0)
"""Not compressed."""

PIECE_BYTES = 1024
"""Bytes that are inflated at a time. zlib copies the bytes after the end of a stream, so larger
pieces would let a peer cause large copies."""


class Inflater:
    """Decompresses the messages of one peer."""

    def __init__(self, window_bits: int, takeover: bool) -> None:
        self._window_bits = window_bits
        self._takeover = takeover
        self._stream: _Decompress | None = None
        self._begun = False  # whether the message has used the stream it will end in

    def inflate(self, part: bytes, max_size: int) -> bytes:
        """Return the decompressed bytes of the next `part` of a message.

        Fails the connection with 1009 for more than `max_size` bytes and with 1007 for invalid
        compressed data.
        """
        output = bytearray()
        for start in range(0, len(part), PIECE_BYTES):
            piece = part[start : start + PIECE_BYTES]
            while piece:
                stream = self._stream = self._stream or zlib.decompressobj(-self._window_bits)
                self._begun = True
                try:
                    output += stream.decompress(piece, max_size + 1 - len(output))
                except zlib.error:
                    raise ProtocolViolation(check.INVALID_DEFLATE) from None
                if len(output) > max_size:
                    raise ProtocolViolation(check.TOO_BIG)
                piece = stream.unused_data
                if stream.eof:  # a block with BFINAL (7.2.3.4): another stream may follow
                    self._stream, self._begun = None, False
        return bytes(output)

    def flush(self, max_size: int) -> bytes:
        """Return the remaining decompressed bytes once the payload of a message is complete.

        An empty payload is an empty message, as some peers send it.
        """
        return self.inflate(TAIL, max_size) if self._begun else b""

    def finish(self) -> None:
        """Prepare for the next message; fails the connection with 1007 if this one was cut off."""
        if self._begun and not self._is_between_blocks():
            raise ProtocolViolation(check.INVALID_DEFLATE)
        self._begun = False
        if not self._takeover:
            self._stream = None

    def window(self) -> bytes:
        """Return the last decompressed bytes, which the next message may refer to. Call it between
        two messages."""
        return b"" if self._stream is None else read_window(self._stream, self._window_bits)

    def set_window(self, window: bytes) -> None:
        """Set the window, before the first message."""
        self._stream = zlib.decompressobj(-self._window_bits, zdict=window)

    def _is_between_blocks(self) -> bool:
        """Whether the message ended at the end of a block and on a byte boundary, so that an
        empty last block can follow."""
        assert self._stream is not None
        probe = self._stream.copy() if self._takeover else self._stream
        try:
            output = probe.decompress(LAST_BLOCK)
        except zlib.error:
            return False
        return probe.eof and not output and not probe.unused_data


MATCH_LENGTH = 258
"""The longest match (RFC 1951 section 3.2.5), whose code has no extra bits."""


def read_window(stream: _Decompress, window_bits: int) -> bytes:
    """Return the window of a raw stream that is between two blocks on a byte boundary.

    The module `zlib` has no function for that. But a copy of the stream decompresses matches at
    the distance of the whole window, which yield the window itself.
    """
    size = 0  # the largest valid distance, by binary search
    step = 1 << (window_bits - 1)
    if _copy_matches(stream, 1 << window_bits) is not None:
        size = 1 << window_bits
    while step and size < 1 << window_bits:
        if _copy_matches(stream, size + step) is not None:
            size += step
        step //= 2
    return (_copy_matches(stream, size) or b"") if size else b""


def _copy_matches(stream: _Decompress, distance: int) -> bytes | None:
    """Return the `distance` bytes that begin that far back, None if there are not so many."""
    count = -(-distance // MATCH_LENGTH)
    try:
        return stream.copy().decompress(_matches(distance, count))[:distance]
    except zlib.error:
        return None


def _matches(distance: int, count: int) -> bytes:
    """Return a block with fixed Huffman codes (RFC 1951 section 3.2.6) of `count` matches."""
    code, extra_bits, base = 0, 0, 1
    while distance >= base + (1 << extra_bits):
        base += 1 << extra_bits
        code += 1
        extra_bits = max(0, code // 2 - 1)
    length_code = "11000101"  # 285
    match = length_code + f"{code:05b}"
    if extra_bits:
        match += f"{distance - base:0{extra_bits}b}"[::-1]  # extra bits begin with the lowest
    bits = "010" + match * count + "0000000"  # not the last block; fixed codes (01); end of block
    bits = bits + "000" + "0" * (-(len(bits) + 3) % 8)  # an empty stored block: a byte boundary
    return int(bits[::-1], 2).to_bytes(len(bits) // 8, "little") + TAIL


class Deflater:
    """Compresses the messages to one peer that have at least `threshold` bytes."""

    def __init__(
        self, window_bits: int, takeover: bool, level: int, memory_level: int, threshold: int
    ) -> None:
        self._window_bits = max(window_bits, MIN_WINDOW_BITS)
        self._takeover = takeover
        self._level = level
        self._memory_level = memory_level
        self._threshold = threshold
        self._stream: _Compress | None = None

    def deflate(self, data: bytes, compress: bool | None = None) -> bytes | None:
        """Return the compressed payload of `data`, None to send the message uncompressed.

        Returns None if `compress` is False, if `compress` is None and `data` is smaller than the
        threshold, or if `data` does not become smaller. In the last case the context is reset,
        because the peer never receives the compressed data.
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
        """Return the format of a message of `size` bytes whose context is empty."""
        if size < self._threshold:
            return PLAIN
        return self._window_bits, self._level, self._memory_level

    def forget(self) -> None:
        """Reset the context: the next message refers to no earlier message."""
        self._stream = None


class CompressedAssembly(Assembly):
    """An incomplete compressed message; `max_message_size` limits its decompressed size.

    The compressed size is limited as well, to the largest that a message of `max_message_size`
    can have. Otherwise a peer could send empty blocks forever.
    """

    def __init__(self, is_text: bool, limits: Limits, inflater: Inflater) -> None:
        super().__init__(is_text, limits)
        self._inflater = inflater

    def grow(self, length: int) -> None:
        limit = self._limits.max_message_size
        if length > limit + (limit >> 3) + 64 - self._size:
            raise ProtocolViolation(check.TOO_BIG)
        self._size += length

    def append(self, part: bytes) -> None:
        super().append(self._inflater.inflate(part, self._remaining_size()))

    def finish(self) -> Message:
        super().append(self._inflater.flush(self._remaining_size()))
        self._inflater.finish()
        return super().finish()

    def _remaining_size(self) -> int:
        return self._limits.max_message_size - len(self._payload)
