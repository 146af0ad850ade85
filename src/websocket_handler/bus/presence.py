"""Presence: the identities in each room, in all processes.

No I/O: announcements go in and out, and the clock is a parameter. Each process announces the
changes of a room, numbered. A process that has missed a change asks for a snapshot. Those of a
process are removed when it announces its exit, or when nothing was received from it for `ttl`
seconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ..engine.native_locks import native_lock

MAX_IDENTITY_LENGTH = 1024
"""Characters."""

PIECE_CHARACTERS = 16 * 1024
"""The size in characters from which an announcement is full.

A full announcement is continued by the next one. They take effect together, with the first that is
not full.
"""

MAX_HELD = 1000
"""The maximum number of changes held until a snapshot is complete."""


class Announcement(NamedTuple):
    """The identities, or changes of them, that one process announces for one room."""

    room: str
    version: int
    """The version after this announcement. The versions of a process for a room only increase."""
    base: int | None
    """The version that this one changes; None for a snapshot, which has all of them."""
    identities: dict[str, int]
    """Identity -> number of connections; 0: gone."""

    def encode(self) -> str:
        return json.dumps([self.room, self.version, self.base, self.identities])


def decode_announcement(text: str | bytes) -> Announcement:
    """Parse an announcement. Raises `ValueError` if it is not valid."""
    try:
        fields = json.loads(text)
    except RecursionError:
        raise ValueError("an announcement is nested too deeply") from None
    if not (isinstance(fields, list) and len(fields) == 4):
        raise ValueError("an announcement has four fields")
    room, version, base, identities = fields
    is_valid = (
        isinstance(room, str)
        and type(version) is int
        and (base is None or type(base) is int)
        and isinstance(identities, dict)
        and all(type(count) is int and count >= 0 for count in identities.values())
    )
    if not is_valid:
        raise ValueError("an announcement with invalid fields")
    return Announcement(room, version, base, identities)


def check_identities(identities: Mapping[str, int]) -> None:
    """Raises `ValueError` if an identity or a number of connections is not valid."""
    for identity, count in identities.items():
        if not isinstance(identity, str) or len(identity) > MAX_IDENTITY_LENGTH:
            raise ValueError(
                f"an identity must be text of at most {MAX_IDENTITY_LENGTH} characters, "
                f"not {str(identity)[:100]!r}"
            )
        if count < 0:
            raise ValueError(
                f"{identity!r}: the number of connections must not be negative, not {count}"
            )


class _LocalIdentities:
    __slots__ = ("identities", "version")

    def __init__(self, version: int) -> None:
        self.version = version
        self.identities: dict[str, int] = {}


class _RemoteIdentities:
    """The identities that another process has announced for one room."""

    __slots__ = ("changes", "held", "identities", "snapshot", "version")

    def __init__(self) -> None:
        self.version = 0
        """The latest version whose pieces have begun to arrive; 0 before the first."""
        self.identities: dict[str, int] = {}
        self.snapshot: dict[str, int] | None = None
        """The replacement of `identities` until it is complete; None if there is none."""
        self.changes: dict[str, int] = {}
        """The pieces of an incomplete change."""
        self.held: list[Announcement] = []
        """Changes that arrived before `snapshot` was complete."""

    def begin(self, version: int) -> None:
        self.version, self.snapshot = version, {}
        self.changes.clear()
        self.held.clear()

    def complete(self) -> bool:
        """Apply the pieces after the last one has arrived. Returns whether the identities have
        changed."""
        if self.snapshot is not None:
            is_change = self.snapshot != self.identities
            self.identities, self.snapshot = self.snapshot, None
            return is_change
        is_change = False
        for identity, count in self.changes.items():
            is_change = is_change or self.identities.get(identity, 0) != count
            if count:
                self.identities[identity] = count
            else:
                self.identities.pop(identity, None)
        self.changes.clear()
        return is_change


class Presence:
    """The presence in the rooms that one process has joined.

    `present` is safe to call from any thread.
    """

    def __init__(self, ttl: float, clock: Callable[[], float]) -> None:
        self._ttl = ttl
        self._clock = clock
        self._own: dict[str, _LocalIdentities] = {}
        self._forgotten = 0  # the highest version of all rooms that were left
        self._rooms: dict[str, dict[bytes, _RemoteIdentities]] = {}
        self._last_seen: dict[bytes, float] = {}
        self._lock = native_lock()

    # This process

    @property
    def has_identities(self) -> bool:
        """Whether this process has announced any identity, so that it must send ALIVE."""
        return any(own.identities for own in self._own.values())

    def announce(self, room: str, identities: Mapping[str, int]) -> list[Announcement]:
        """Set the identities of a room in this process. Returns the announcements to send."""
        new = {identity: count for identity, count in identities.items() if count}
        own = self._own.get(room)
        if own is None:
            if not new:
                return []
            own = self._own[room] = _LocalIdentities(self._forgotten + 1)
            own.identities = new
            return self.snapshot(room)
        changes = {
            identity: count
            for identity, count in new.items()
            if own.identities.get(identity) != count
        }
        changes.update((identity, 0) for identity in own.identities if identity not in new)
        own.identities = new
        announcements = []
        for piece in _pieces(changes) if changes else ():
            announcements.append(Announcement(room, own.version + 1, own.version, piece))
            own.version += 1
        return announcements

    def snapshot(self, room: str) -> list[Announcement]:
        """Return the announcements that answer a process that asks for the room."""
        own = self._own.get(room)
        if own is None:
            return [Announcement(room, self._forgotten + 1, None, {})]
        first, *others = _pieces(own.identities)
        version = own.version
        return [
            Announcement(room, version, None, first),
            *(Announcement(room, version, version, piece) for piece in others),
        ]

    def is_in(self, room: str) -> bool:
        """Whether this process has identities in the room."""
        own = self._own.get(room)
        return own is not None and bool(own.identities)

    def own_rooms(self) -> list[str]:
        """Return the rooms in which this process has identities."""
        return [room for room, own in self._own.items() if own.identities]

    def leave(self, room: str) -> list[Announcement]:
        """Forget a room that this process no longer receives. Returns the announcements to send."""
        announcements = self.announce(room, {})
        own = self._own.pop(room, None)
        if own is not None:
            self._forgotten = max(self._forgotten, own.version)
        with self._lock:
            self._rooms.pop(room, None)
        return announcements

    # Other processes

    def present(self, room: str) -> dict[str, int]:
        """Return identity -> number of connections in the other processes."""
        total: dict[str, int] = {}
        with self._lock:
            for remote in self._rooms.get(room, {}).values():
                for identity, count in remote.identities.items():
                    total[identity] = total.get(identity, 0) + count
        return total

    def apply(self, node: bytes, announcement: Announcement) -> tuple[bool, bool]:
        """Process an announcement of `node`.

        Returns whether the room's identities have changed, and whether to ask `node` for a
        snapshot, because an earlier announcement was missed.
        """
        self._last_seen[node] = self._clock()
        with self._lock:
            remote = self._rooms.setdefault(announcement.room, {}).setdefault(
                node, _RemoteIdentities()
            )
            is_changed, must_ask = _apply(remote, announcement)
            while remote.snapshot is None and remote.held and not must_ask:
                changed_too, must_ask = _apply(remote, remote.held.pop(0))
                is_changed = is_changed or changed_too
            return is_changed, must_ask

    def mark_alive(self, node: bytes) -> None:
        if node in self._last_seen:
            self._last_seen[node] = self._clock()

    def remove_process(self, node: bytes) -> set[str]:
        """Forget a process that has left. Returns the rooms whose identities have changed."""
        self._last_seen.pop(node, None)
        changed = set()
        with self._lock:
            for room, nodes in self._rooms.items():
                remote = nodes.pop(node, None)
                if remote is not None and remote.identities:
                    changed.add(room)
        return changed

    def expire(self) -> set[str]:
        """Forget processes that have timed out. Returns the rooms whose identities have changed."""
        now = self._clock()
        changed: set[str] = set()
        for node in [
            node for node, last_seen in self._last_seen.items() if now - last_seen > self._ttl
        ]:
            changed |= self.remove_process(node)
        return changed


def _apply(remote: _RemoteIdentities, announcement: Announcement) -> tuple[bool, bool]:
    """Process one announcement; returns the same as `Presence.apply`."""
    _, version, base, identities = announcement
    if version < remote.version:
        return False, False
    if base is None:
        remote.begin(version)
    elif base == version:  # the next piece of a snapshot
        if remote.snapshot is None or version != remote.version:
            return False, version > remote.version
    elif remote.snapshot is not None:
        remote.held.append(announcement)
        return False, len(remote.held) > MAX_HELD
    elif base != remote.version or not base:
        return False, base >= remote.version
    remote.version = version
    (remote.changes if remote.snapshot is None else remote.snapshot).update(identities)
    return not _is_full(identities) and remote.complete(), False


def _pieces(identities: Mapping[str, int]) -> list[dict[str, int]]:
    """Split identities into pieces, at least one. Every piece but the last is full."""
    pieces: list[dict[str, int]] = [{}]
    size = 0
    for identity, count in identities.items():
        pieces[-1][identity] = count
        size += _size(identity)
        if size > PIECE_CHARACTERS:
            pieces.append({})
            size = 0
    return pieces


def _is_full(identities: Mapping[str, int]) -> bool:
    return sum(map(_size, identities)) > PIECE_CHARACTERS


def _size(identity: str) -> int:
    return len(identity) + 8
