"""The format of messages between processes: a head of 21 bytes, a key and a payload.

Knows bytes only: no broker, no room, no connection.

During a deploy, processes with two versions of this library share a broker. A reader reads every
version up to its own. Version, kind, node and number have the same position in every version. A
reader can therefore count a message in a newer version, and report it as lost.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

VERSION = 1
"""The version of the format. It is increased when an older reader would misread an envelope."""

HEAD = struct.Struct(">BBB8sQH")  # version, kind, flags, node, number, length of the key

TEXT, HAS_KEY, STARTS = 1, 2, 4

MAX_KEY_BYTES = (1 << 16) - 1


class EnvelopeKind(IntEnum):
    """The kind of an envelope."""

    MESSAGE = 0
    HEARTBEAT = 1
    PRESENT = 2
    """Announces the members of a room in the sender's process."""
    ASK = 3
    """Asks for the members of a room."""
    ALIVE = 4
    EXIT = 5
    """The sender leaves the bus; its identities are no longer present."""
    NEWER = 255
    """Never sent; stands for a message in a version that this process cannot read."""


KINDS: dict[int, EnvelopeKind] = {
    kind.value: kind for kind in EnvelopeKind if kind is not EnvelopeKind.NEWER
}
"""The kinds that are sent. A dict finds one in a tenth of the time of `EnvelopeKind(…)`."""


class Envelope(NamedTuple):
    kind: EnvelopeKind
    node: bytes
    """The sending process: eight random bytes."""
    number: int
    """The number of the message among those of this process to this room, from 1."""
    starts: bool
    """The sender starts to count here: no lower number is missing."""
    message: str | bytes
    key: str | None


def encode_content(message: str | bytes, key: str | None) -> tuple[int, bytes, bytes]:
    """Return flags, key and payload.

    Raises `ValueError` if the text cannot be encoded as UTF-8 or the key is too long.
    """
    flags = 0
    encoded_key = b""
    try:
        if key is not None:
            flags |= HAS_KEY
            encoded_key = key.encode()
        if isinstance(message, str):
            flags |= TEXT
            payload = message.encode()
        else:
            payload = bytes(message)
    except UnicodeEncodeError as error:
        raise ValueError(f"the text cannot be encoded as UTF-8: {error}") from None
    if len(encoded_key) > MAX_KEY_BYTES:
        raise ValueError(f"a key has at most {MAX_KEY_BYTES} bytes, not {len(encoded_key)}")
    return flags, encoded_key, payload


def seal(
    kind: EnvelopeKind, node: bytes, number: int, starts: bool, content: tuple[int, bytes, bytes]
) -> bytes:
    """Return the bytes of an envelope with the content that `encode_content` returned."""
    flags, key, payload = content
    if starts:
        flags |= STARTS
    return b"".join((HEAD.pack(VERSION, kind, flags, node, number, len(key)), key, payload))


def open_envelope(data: bytes) -> Envelope:
    """Parse an envelope. Raises `ValueError` if it is not valid."""
    try:
        version, kind, flags, node, number, length = HEAD.unpack_from(data)
    except struct.error:
        raise ValueError("too short for an envelope") from None
    known = KINDS.get(kind)
    if version > VERSION and known is EnvelopeKind.MESSAGE:
        return Envelope(EnvelopeKind.NEWER, node, number, bool(flags & STARTS), "", None)
    if not 1 <= version <= VERSION or known is None:
        raise ValueError(f"an envelope of unknown version {version} or kind {kind}")
    if flags & ~(TEXT | HAS_KEY | STARTS) or (length and not flags & HAS_KEY):
        raise ValueError("an envelope with invalid flags")
    payload_begin = HEAD.size + length
    if len(data) < payload_begin:
        raise ValueError("an envelope with a truncated key")
    key = data[HEAD.size : payload_begin].decode() if flags & HAS_KEY else None
    payload = data[payload_begin:]
    message = payload.decode() if flags & TEXT else payload
    return Envelope(known, node, number, bool(flags & STARTS), message, key)
