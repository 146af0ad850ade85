"""The members of a room that are not members yet, or are no longer: they catch up or move."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from ..protocol.prepared import PreparedMessage

if TYPE_CHECKING:
    from ..websocket import WebSocket
    from .room import Room

LATE_ADD_S = 10.0
"""Seconds after a move within which a WebSocket that is added to a room continues there. Later, it
receives live messages only."""


MAX_EXCLUDED = 10_000
"""Messages that exclude a WebSocket while it receives the messages that it has missed. It receives
further ones."""


class Joining:
    """A WebSocket that first receives the messages which it has missed."""

    __slots__ = ("excluded", "has_begun", "identity", "is_counted", "is_moved", "offset")

    def __init__(self, identity: str | None, offset: str | None, is_moved: bool) -> None:
        self.identity = identity
        self.offset = offset
        """The offset of the last message that it has received; None without a history."""
        self.is_moved = is_moved
        """It comes from another process, so it waits for a broker that is unreachable."""
        self.excluded: set[str] = set()
        """The offsets of later messages that were sent with `exclude`; up to `MAX_EXCLUDED`."""
        self.is_counted = False
        """Whether its identity is present in this process already."""
        self.has_begun = False


class Left(NamedTuple):
    """A member that has left a room because it moves to another process."""

    room: Room
    identity: str | None
    offset: str | None
    """The offset of the last message that it has been sent here; None without a history, or before
    the room was subscribed to."""
    unsent: list[PreparedMessage]
    """The messages up to that offset that were queued, because it is slow."""


class MovedOffset(NamedTuple):
    """The position of a moved WebSocket in the history of a room."""

    key: str
    offset: str
    valid_until: float


def moved_offset(key: str, offset: str) -> MovedOffset:
    return MovedOffset(key, offset, time.monotonic() + LATE_ADD_S)


def take_offset(websocket: WebSocket, room: Room) -> str | None:
    """Remove and return the offset at which a moved WebSocket continues in a room; None if it was
    not in the room, or without a history."""
    offsets = websocket._offsets_of_rooms
    if not offsets:
        return None
    found = next((one for one in offsets if one.key == room._key), None)
    websocket._offsets_of_rooms = tuple(one for one in offsets if one is not found)
    is_valid = found is not None and time.monotonic() < found.valid_until
    return found.offset if found is not None and is_valid else None
