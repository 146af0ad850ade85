"""Who is in which room, in all processes: what to tell the others, and what they have told.

Pure: announcements in and out, time by an injected clock; nothing is sent from here. Each
process tells the changes of a room, numbered; who has missed one asks, and is told all.
A process is believed until it says goodbye, or has not been heard of for `ttl` seconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ..engine.native_locks import native_lock

LONGEST_IDENTITY = 1024
PIECE = 16 * 1024
"""Characters of identities with which an announcement is full. One that is full is continued by
the next; they are believed together, once one has come that is not."""

MAX_HELD = 1000
"""Changes that wait for a whole announcement to be complete."""


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
    is_valid = (
        isinstance(room, str)
        and type(version) is int
        and (base is None or type(base) is int)
        and isinstance(who, dict)
        and all(type(count) is int and count >= 0 for count in who.values())
    )
    if not is_valid:
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
    """What another process has told of one room."""

    __slots__ = ("changes", "held", "version", "who", "whole")

    def __init__(self) -> None:
        self.version = 0
        """The latest that has begun to come; 0 before the first."""
        self.who: dict[str, int] = {}
        self.whole: dict[str, int] | None = None
        """What will take the place of `who`, while it comes in pieces."""
        self.changes: dict[str, int] = {}
        """The pieces of a change that is not complete."""
        self.held: list[Announcement] = []
        """Changes that came before all pieces of `whole` had."""

    def begin(self, version: int) -> None:
        self.version, self.whole = version, {}
        self.changes.clear()
        self.held.clear()

    def complete(self) -> bool:
        """The last piece has come. Returns whether `who` is different now."""
        if self.whole is not None:
            is_change = self.whole != self.who
            self.who, self.whole = self.whole, None
            return is_change
        is_change = False
        for identity, count in self.changes.items():
            is_change = is_change or self.who.get(identity, 0) != count
            if count:
                self.who[identity] = count
            else:
                self.who.pop(identity, None)
        self.changes.clear()
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
        self._lock = native_lock()

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
        self._heard[node] = self._clock()
        with self._lock:
            told = self._rooms.setdefault(announcement.room, {}).setdefault(node, _Told())
            is_changed, must_ask = _take(told, announcement)
            while told.whole is None and told.held and not must_ask:
                changed_too, must_ask = _take(told, told.held.pop(0))
                is_changed = is_changed or changed_too
            return is_changed, must_ask

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


def _take(told: _Told, announcement: Announcement) -> tuple[bool, bool]:
    """See `Presence.hear`."""
    _, version, base, who = announcement
    if version < told.version:
        return False, False
    if base is None:
        told.begin(version)
    elif base == version:  # the next piece of a whole one
        if told.whole is None or version != told.version:
            return False, version > told.version
    elif told.whole is not None:
        told.held.append(announcement)
        return False, len(told.held) > MAX_HELD
    elif base != told.version or not base:
        return False, base >= told.version
    told.version = version
    (told.changes if told.whole is None else told.whole).update(who)
    return not _is_full(who) and told.complete(), False


def _pieces(who: Mapping[str, int]) -> list[dict[str, int]]:
    """At least one, of which the last alone is not full."""
    pieces: list[dict[str, int]] = [{}]
    size = 0
    for identity, count in who.items():
        pieces[-1][identity] = count
        size += _size(identity)
        if size > PIECE:
            pieces.append({})
            size = 0
    return pieces


def _is_full(who: Mapping[str, int]) -> bool:
    return sum(map(_size, who)) > PIECE


def _size(identity: str) -> int:
    return len(identity) + 8
