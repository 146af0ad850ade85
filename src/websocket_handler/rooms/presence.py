"""Who is in which room, in all processes: what to tell the others, and what they have told.

Pure: announcements in and out, time by an injected clock; nothing is sent from here. Each
process tells the changes of a room, numbered; who has missed one asks, and is told all.
A process is believed until it says goodbye, or has not been heard of for `ttl` seconds.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple

LONGEST_IDENTITY = 1024
PIECE = 16 * 1024
"""Characters of identities in one announcement; more are told in several."""


class Announcement(NamedTuple):
    """What one process tells of one room."""

    room: str
    version: int
    """What is true once this is heard; versions of a process for a room only grow."""
    base: int | None
    """The version that this changes; None for the whole of it."""
    who: dict[str, int]
    """Identity -> connections; 0 is gone."""

    def encode(self) -> str:
        return json.dumps([self.room, self.version, self.base, self.who])


def decode_announcement(text: str | bytes) -> Announcement:
    """ValueError for what is none."""
    try:
        fields = json.loads(text)
    except RecursionError:
        raise ValueError("an announcement is not that deep") from None
    if not (isinstance(fields, list) and len(fields) == 4):
        raise ValueError("an announcement has four fields")
    room, version, base, who = fields
    is_sound = (
        isinstance(room, str)
        and type(version) is int
        and (base is None or type(base) is int)
        and isinstance(who, dict)
        and all(type(count) is int and count >= 0 for count in who.values())
    )
    if not is_sound:
        raise ValueError("an announcement with fields of no meaning")
    return Announcement(room, version, base, who)


def check_identities(who: Mapping[str, int]) -> None:
    """ValueError for identities that cannot be told to others."""
    for identity, count in who.items():
        if not isinstance(identity, str) or len(identity) > LONGEST_IDENTITY:
            raise ValueError(
                f"an identity is text of at most {LONGEST_IDENTITY} characters, "
                f"not {str(identity)[:100]!r}"
            )
        if count < 0:
            raise ValueError(f"{identity!r} cannot have {count} connections")


class _Own:
    __slots__ = ("version", "who")

    def __init__(self, version: int) -> None:
        self.version = version
        self.who: dict[str, int] = {}


class _Told:
    __slots__ = ("version", "who")

    def __init__(self, version: int) -> None:
        self.version = version
        self.who: dict[str, int] = {}

    def change(self, version: int, who: Mapping[str, int]) -> bool:
        self.version = version
        is_change = False
        for identity, count in who.items():
            is_change = is_change or self.who.get(identity, 0) != count
            if count:
                self.who[identity] = count
            else:
                self.who.pop(identity, None)
        return is_change


class Presence:
    """All that one process knows of the presence in the rooms it has joined. `present` may be
    called from any thread."""

    def __init__(self, ttl: float, clock: Callable[[], float]) -> None:
        self._ttl = ttl
        self._clock = clock
        self._own: dict[str, _Own] = {}
        self._forgotten = 0  # the highest version of a room that was left
        self._rooms: dict[str, dict[bytes, _Told]] = {}
        self._heard: dict[bytes, float] = {}
        self._lock = threading.Lock()

    # This process

    @property
    def has_someone(self) -> bool:
        """Whether there is anyone whom the others should know to be alive."""
        return any(own.who for own in self._own.values())

    def announce(self, room: str, who: Mapping[str, int]) -> list[Announcement]:
        """What the others must be told now that these are in the room here."""
        new = {identity: count for identity, count in who.items() if count}
        own = self._own.get(room)
        if own is None:
            if not new:
                return []
            own = self._own[room] = _Own(self._forgotten + 1)
            own.who = new
            return self.whole(room)
        changes = {
            identity: count for identity, count in new.items() if own.who.get(identity) != count
        }
        changes.update((identity, 0) for identity in own.who if identity not in new)
        own.who = new
        announcements = []
        for piece in _pieces(changes) if changes else ():
            announcements.append(Announcement(room, own.version + 1, own.version, piece))
            own.version += 1
        return announcements

    def whole(self, room: str) -> list[Announcement]:
        """What one is told who asks for the room."""
        own = self._own.get(room)
        if own is None:
            return [Announcement(room, self._forgotten + 1, None, {})]
        first, *others = _pieces(own.who)
        version = own.version
        return [
            Announcement(room, version, None, first),
            *(Announcement(room, version, version, piece) for piece in others),
        ]

    def is_in(self, room: str) -> bool:
        """Whether someone is in the room in this process."""
        own = self._own.get(room)
        return own is not None and bool(own.who)

    def own_rooms(self) -> list[str]:
        """The rooms where someone is in this process."""
        return [room for room, own in self._own.items() if own.who]

    def leave(self, room: str) -> list[Announcement]:
        """The process does not listen to the room any more, so nobody is there; what the others
        must be told."""
        announcements = self.announce(room, {})
        own = self._own.pop(room, None)
        if own is not None:
            self._forgotten = max(self._forgotten, own.version)
        with self._lock:
            self._rooms.pop(room, None)
        return announcements

    # The others

    def present(self, room: str) -> dict[str, int]:
        """Identity -> connections in the other processes."""
        total: dict[str, int] = {}
        with self._lock:
            for told in self._rooms.get(room, {}).values():
                for identity, count in told.who.items():
                    total[identity] = total.get(identity, 0) + count
        return total

    def hear(self, node: bytes, announcement: Announcement) -> tuple[bool, bool]:
        """Whether it changes who is in the room, and whether `node` must be asked, because
        something before it was missed."""
        room, version, base, who = announcement
        self._heard[node] = self._clock()
        with self._lock:
            nodes = self._rooms.setdefault(room, {})
            told = nodes.get(node)
            if told is not None and version < told.version:
                return False, False
            if base is None:
                before = told.who if told is not None else {}
                told = nodes[node] = _Told(version)
                told.change(version, who)
                return told.who != before, False
            if told is None or base > told.version:
                return False, True
            return base == told.version and told.change(version, who), False

    def hear_alive(self, node: bytes) -> None:
        if node in self._heard:
            self._heard[node] = self._clock()

    def hear_goodbye(self, node: bytes) -> set[str]:
        """The rooms that have others now."""
        self._heard.pop(node, None)
        changed = set()
        with self._lock:
            for room, nodes in self._rooms.items():
                told = nodes.pop(node, None)
                if told is not None and told.who:
                    changed.add(room)
        return changed

    def expire(self) -> set[str]:
        """Give up those not heard of for too long; the rooms that have others now."""
        now = self._clock()
        changed: set[str] = set()
        for node in [node for node, heard in self._heard.items() if now - heard > self._ttl]:
            changed |= self.hear_goodbye(node)
        return changed


def _pieces(who: Mapping[str, int]) -> list[dict[str, int]]:
    """At least one."""
    pieces: list[dict[str, int]] = [{}]
    size = 0
    for identity, count in who.items():
        if size > PIECE:
            pieces.append({})
            size = 0
        pieces[-1][identity] = count
        size += len(identity) + 8
    return pieces
