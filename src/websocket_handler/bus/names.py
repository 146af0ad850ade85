"""How rooms and processes are called on a broker.

Any text may name a room. Letters, digits, - and _ stay as they are; all else is written as
%XX (of its UTF-8), so that a name is neither a wildcard nor two commands, and is one token in
a NATS subject and one hash slot in a Redis cluster.
"""

from __future__ import annotations

import hashlib
import re
from urllib.parse import quote

LONGEST = 200
"""Of an encoded name; a longer one ends in a hash instead."""

EVERYONE = "nodes"
"""The channel that every process listens to."""


def check_name(room: str) -> None:
    """Raises `TypeError` for a room's name that is no str, `ValueError` for one that UTF-8 cannot
    write."""
    if not isinstance(room, str):
        raise TypeError(f"the name of a room is a str, not {type(room).__name__}")
    try:
        room.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"a room's name must be text that UTF-8 can write: {error}") from None


def room_channel(room: str) -> str:
    """The channel of a room. ValueError for what is no text."""
    if not isinstance(room, str):
        raise ValueError(f"a room's name is text, not {room!r}")
    try:
        encoded = quote(room, safe="").replace(".", "%2E").replace("~", "%7E")
    except UnicodeEncodeError as error:
        raise ValueError(f"a room's name must be text that UTF-8 can write: {error}") from None
    if len(encoded) > LONGEST:
        digest = hashlib.sha256(room.encode()).hexdigest()
        encoded = f"{encoded[: LONGEST - 70].rpartition('%')[0] or encoded[:100]}~{digest}"
    return f"room.{encoded or '~'}"


def node_channel(node: bytes) -> str:
    """The channel of one process."""
    return f"node.{node.hex()}"


def check_prefix(prefix: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", prefix):
        raise ValueError(f"a prefix is letters, digits, - and _, not {prefix!r}")
