"""The names of rooms and processes on a broker.

A room's name is any text. Letters, digits, - and _ are unchanged; every other character is
percent-encoded as UTF-8 (%XX). An encoded name has no wildcard and no white space. It is one token
of a NATS subject, and one hash slot of a Redis cluster.
"""

from __future__ import annotations

import hashlib
import re
from urllib.parse import quote

MAX_NAME_LENGTH = 200
"""The maximum length of an encoded name; a longer one is shortened and ends in a hash."""

ALL_PROCESSES = "nodes"
"""The channel to which every process subscribes."""


def check_name(room: str) -> None:
    """Raises `TypeError` if a room's name is not a str, `ValueError` if it cannot be encoded as
    UTF-8."""
    if not isinstance(room, str):
        raise TypeError(f"a room's name must be a str, not {type(room).__name__}")
    try:
        room.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"a room's name cannot be encoded as UTF-8: {error}") from None


def room_channel(room: str) -> str:
    """Return the channel of a room. Raises `ValueError` if the name is not valid."""
    if not isinstance(room, str):
        raise ValueError(f"a room's name must be text, not {room!r}")
    try:
        encoded = quote(room, safe="").replace(".", "%2E").replace("~", "%7E")
    except UnicodeEncodeError as error:
        raise ValueError(f"a room's name cannot be encoded as UTF-8: {error}") from None
    if len(encoded) > MAX_NAME_LENGTH:
        digest = hashlib.sha256(room.encode()).hexdigest()
        encoded = f"{encoded[: MAX_NAME_LENGTH - 70].rpartition('%')[0] or encoded[:100]}~{digest}"
    return f"room.{encoded or '~'}"


def node_channel(node: bytes) -> str:
    """Return the channel of one process."""
    return f"node.{node.hex()}"


def check_prefix(prefix: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", prefix):
        raise ValueError(f"a prefix must consist of letters, digits, - and _, not {prefix!r}")
