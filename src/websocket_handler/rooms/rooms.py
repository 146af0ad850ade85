"""All rooms of a process, by their names."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from weakref import WeakSet, WeakValueDictionary

from ..protocol.prepared import PreparedMessage
from ..websocket import WebSocket
from .delivery import Delivery
from .policy import SlowConsumers
from .room import Room

CLOSED_WHEN_FULL = SlowConsumers()


@dataclass(frozen=True, slots=True)
class RoomsStats:
    """What went through the rooms of this process: `Rooms.stats()`."""

    rooms: int
    """Those that have members now."""
    members: int
    """Of all of them; who is in two rooms counts twice."""
    delivered: Delivery
    """The sum of what became of every message so far."""


class Rooms:
    """Named groups of WebSockets: `rooms["lobby"].add(ws)`, `rooms["lobby"].send("hello")`.

    A name may be any text. A room exists as long as it has members or somebody holds it.
    """

    def __init__(
        self, *, slow: SlowConsumers | Callable[[str], SlowConsumers] = CLOSED_WHEN_FULL
    ) -> None:
        """`slow` says what becomes of messages to members that are behind: the same in every
        room, or what it returns for the name of each."""
        self._policy_of = slow if callable(slow) else lambda _: slow
        self._lock = threading.Lock()  # for what follows
        self._rooms: WeakValueDictionary[str, Room] = WeakValueDictionary()
        self._delivered = Delivery()
        _of_this_process.add(self)

    def __getitem__(self, name: str) -> Room:
        """The room of that name. Raises `TypeError` if that is no str."""
        if not isinstance(name, str):
            raise TypeError(f"the name of a room is a str, not {type(name).__name__}")
        with self._lock:
            room = self._rooms.get(name)
            if room is None:
                room = Room(name, self._policy_of(name), self._send)
                self._rooms[name] = room
            return room

    def __iter__(self) -> Iterator[Room]:
        """The rooms that have members in this process."""
        with self._lock:
            rooms = list(self._rooms.values())
        return (room for room in rooms if len(room))

    def stats(self) -> RoomsStats:
        """An account of what happened so far."""
        sizes = [len(room) for room in self]
        return RoomsStats(rooms=len(sizes), members=sum(sizes), delivered=self._delivered)

    def _send(
        self,
        room: Room,
        message: PreparedMessage,
        key: str | None,
        excluded: Collection[WebSocket],
    ) -> Delivery:
        delivery = room.deliver(message, key, excluded)
        with self._lock:
            self._delivered = self._delivered.plus(delivery)
        return delivery

    def _begin_anew(self) -> None:
        """In a forked child: the parent's connections are not here."""
        self._lock = threading.Lock()
        for room in list(self._rooms.values()):
            room.begin_anew()


_of_this_process: WeakSet[Rooms] = WeakSet()


def _after_fork_in_child() -> None:
    for rooms in list(_of_this_process):
        rooms._begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
