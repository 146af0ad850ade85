"""What travels from process to process: a head of 21 bytes, a key, a payload.

Knows bytes only: no broker, no room, no connection.

During a deploy processes of two versions of this library share a broker. A reader reads every
version up to its own. Version, kind, node and number stay where they are in every version, so
that a reader counts a message that it cannot read: it reports that message as lost.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

VERSION = 1
"""The lowest version of the format that a reader needs; it grows when an older reader would
misunderstand an envelope."""

HEAD = struct.Struct(">BBB8sQH")  # version, kind, flags, node, number, bytes of the key

TEXT, HAS_KEY, STARTS = 1, 2, 4

LONGEST_KEY = (1 << 16) - 1


class Kind(IntEnum):
    """What an envelope is about."""

    MESSAGE = 0
    HEARTBEAT = 1
    PRESENT = 2
    """Who is in a room in the sender's process."""
    ASK = 3
    """The sender wants to know who is in the room."""
    ALIVE = 4
    GOODBYE = 5
    NEWER = 255
    """Never sent: a message in a version of the format that this process cannot read."""


class Envelope(NamedTuple):
    kind: Kind
    node: bytes
    """Eight bytes, random for each process."""
    number: int
    """Counts the messages of a process to a room, from 1 on."""
    starts: bool
    """Nothing is said of the numbers before this one."""
    message: str | bytes
    key: str | None


def encode_content(message: str | bytes, key: str | None) -> tuple[int, bytes, bytes]:
    """Flags, key and payload. ValueError for text that UTF-8 cannot write, or a key too long."""
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
        raise ValueError(f"not text that UTF-8 can write: {error}") from None
    if len(encoded_key) > LONGEST_KEY:
        raise ValueError(f"a key has at most {LONGEST_KEY} bytes, not {len(encoded_key)}")
    return flags, encoded_key, payload


def seal(
    kind: Kind, node: bytes, number: int, starts: bool, content: tuple[int, bytes, bytes]
) -> bytes:
    """The bytes of an envelope around what `encode_content` returned."""
    flags, key, payload = content
    if starts:
        flags |= STARTS
    return b"".join((HEAD.pack(VERSION, kind, flags, node, number, len(key)), key, payload))


def open_envelope(data: bytes) -> Envelope:
    """ValueError for what is none, or one of another version."""
    try:
        version, kind, flags, node, number, length = HEAD.unpack_from(data)
    except struct.error:
        raise ValueError("too short for an envelope") from None
    if version > VERSION and kind == Kind.MESSAGE:
        return Envelope(Kind.NEWER, node, number, bool(flags & STARTS), "", None)
    if not 1 <= version <= VERSION or kind == Kind.NEWER:
        raise ValueError(f"an envelope of version {version} and kind {kind}")
    if flags & ~(TEXT | HAS_KEY | STARTS) or (length and not flags & HAS_KEY):
        raise ValueError("an envelope with flags of no meaning")
    payload_begin = HEAD.size + length
    if len(data) < payload_begin:
        raise ValueError("an envelope that ends within its key")
    key = data[HEAD.size : payload_begin].decode() if flags & HAS_KEY else None
    payload = data[payload_begin:]
    message = payload.decode() if flags & TEXT else payload
    return Envelope(Kind(kind), node, number, bool(flags & STARTS), message, key)
