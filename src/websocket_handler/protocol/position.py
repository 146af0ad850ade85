"""The position of a decoder in its stream, and the bytes that bring a new decoder there.

A connection that moves to another process continues with a new decoder, perhaps one of another
engine or of another version of this library. `replay` returns bytes for it: the frames of the
incomplete message, which count the same against the limits, and the received part of the frame
under way. The bytes that the peer sends next continue them.
"""

from __future__ import annotations

from typing import NamedTuple

from .early_frame import EarlyDecoder
from .frame import Opcode, apply_mask, write_frame, write_header
from .message import Decoder as FrameDecoder
from .versions.challenge import AwaitingKey3
from .versions.hixie import TEXT_BEGINS, HixieDecoder
from .versions.version import Decoder, Encoder

NO_KEY = bytes(4)


class Position(NamedTuple):
    """The position of a server's decoder of RFC 6455 frames."""

    opcode: int = 0
    payload: bytes = b""
    """The received payload of the incomplete message, unmasked."""
    fragments: int = 0
    """The frames of that message that have begun; 0: there is no incomplete message."""
    empty: int = 0
    """The empty ones among them, except for a last one."""
    remaining: int | None = None
    """Payload bytes of the current frame that are still to come; None between two frames."""
    fin: bool = False
    key: bytes = NO_KEY
    """The masking key of the current frame; its first byte masks the next payload byte."""
    unread: bytes = b""
    """An incomplete header or control frame."""
    is_compressed: bool = False


class Replay(NamedTuple):
    """The bytes for a new decoder. It counts `frames` data frames in them again."""

    data: bytes
    frames: int


def replay(position: Position) -> Replay:
    """Return the bytes that bring a new server's decoder to `position`.

    Raises `ValueError` within a compressed message: only a decompressor that has read it could
    continue it.
    """
    if position.is_compressed:
        raise ValueError("a compressed message is incomplete")
    if not position.fragments:
        return Replay(position.unread, 0)
    in_frame = position.remaining is not None
    whole = _fragments(position.payload, position.fragments - position.empty, in_frame)
    frames = [b""] * position.empty + whole
    opcodes = [position.opcode] + [int(Opcode.CONTINUATION)] * len(frames)
    data = b"".join(
        write_frame(opcode, part, fin=False, key=NO_KEY)
        for opcode, part in zip(opcodes, frames, strict=False)
    )
    if position.remaining is None:
        return Replay(data + position.unread, len(frames))
    part = position.payload[sum(map(len, whole)) :]
    key = bytes(position.key[(i - len(part)) % 4] for i in range(4))
    length = len(part) + position.remaining
    header = write_header(opcodes[len(frames)], length, position.fin, key)
    return Replay(data + header + apply_mask(part, key), len(frames) + 1)


def _fragments(payload: bytes, count: int, in_frame: bool) -> list[bytes]:
    """Return the payloads of complete frames: `count` frames, the last of which is incomplete if
    `in_frame`, have the payload together. The incomplete one has the rest of it."""
    complete = count - in_frame
    if complete <= 0:
        return []
    singles = [payload[i : i + 1] for i in range(complete if in_frame else complete - 1)]
    return singles if in_frame else [*singles, payload[complete - 1 :]]


def replay_of(decoder: Decoder, encoder: Encoder) -> Replay:
    """Like `replay`, for a server's decoder in Python of any version.

    `encoder` is that of the version's client.
    """
    if isinstance(decoder, AwaitingKey3):
        return replay_of(decoder.frames_decoder, encoder)
    if isinstance(decoder, FrameDecoder):
        return replay(_position_of(decoder))
    if isinstance(decoder, EarlyDecoder):
        return _replay_of_early(decoder, encoder)
    assert isinstance(decoder, HixieDecoder)
    assembly = decoder._assembly
    begun = b"" if assembly is None else bytes([TEXT_BEGINS]) + bytes(assembly._payload)
    return Replay(begun + bytes(decoder._unread), int(assembly is not None))


def _position_of(decoder: FrameDecoder) -> Position:
    assembly, start = decoder._assembly, decoder._start
    unread = bytes(decoder._unread)
    if assembly is None:
        return Position(unread=unread)
    turned = decoder._received % 4
    return Position(
        opcode=Opcode.TEXT if assembly._is_text else Opcode.BINARY,
        payload=bytes(assembly._payload),
        fragments=assembly._fragments,
        empty=assembly._empty,
        remaining=None if start is None else decoder._length - decoder._received,
        fin=start is not None and start.fin,
        key=(decoder._key[turned:] + decoder._key[:turned]) or NO_KEY,
        unread=unread,
        is_compressed=decoder.is_compressed,
    )


def _replay_of_early(decoder: EarlyDecoder, encoder: Encoder) -> Replay:
    """The current frame begins with its own header: its keystream depends on that."""
    assembly, unread = decoder._assembly, bytes(decoder._unread)
    if assembly is None:
        return Replay(unread, 0)
    in_frame = decoder._remaining is not None
    header = decoder._header if in_frame else b""
    nonce = decoder._nonce_size
    received = decoder._position - (len(header) - nonce) if in_frame else 0
    payload = bytes(assembly._payload)
    before, part = payload[: len(payload) - received], payload[len(payload) - received :]
    complete = assembly._fragments - assembly._empty - in_frame
    frames = [b""] * assembly._empty + _fragments(before, complete, in_frame=False)
    opcodes = [Opcode.TEXT if assembly._is_text else Opcode.BINARY]
    opcodes += [Opcode.CONTINUATION] * len(frames)
    data = b"".join(
        encoder.frame(opcode, piece, False) for opcode, piece in zip(opcodes, frames, strict=False)
    )
    if decoder._key:
        part = apply_mask(part, decoder._key, len(header) - nonce)
    return Replay(data + header + part + unread, len(frames) + in_frame)
