"""Sends and receives announcements of presence on the bus."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from .envelope import Envelope, Kind
from .names import EVERYONE, node_channel
from .presence import Announcement, Presence, decode_announcement
from .subscription import Subscription

if TYPE_CHECKING:
    from .worker import BusWorker


class PresenceSync:
    """Connects `Presence`, which does no I/O, to the worker."""

    def __init__(self, endpoint: BusWorker) -> None:
        self._worker = endpoint
        self._ttl = endpoint.settings.presence_ttl
        self.known: Presence = Presence(self._ttl, time.monotonic)
        self._told_alive = time.monotonic()

    def announce(self, room: Subscription, who: Mapping[str, int]) -> None:
        self._tell(room.channel, self.known.announce(room.name, who))

    def left(self, room: Subscription) -> None:
        """This process no longer has members in the room."""
        self.announce(room, {})

    def forget(self, room: Subscription) -> None:
        """This process no longer receives announcements for the room."""
        self._tell(room.channel, self.known.leave(room.name))

    def begin(self) -> None:
        """Announce and ask for everything, after a connect: others may have missed any
        announcement."""
        self._told_alive = time.monotonic()
        for name in self.known.own_rooms():
            self._tell(self._worker.joined[name].channel, self.known.whole(name))
        for room in self._worker.joined.values():
            self.ask(room)

    def ask(self, room: Subscription) -> None:
        """Ask all processes for their identities in the room."""
        self._worker.tell(room.channel, Kind.ASK, room.name)

    def say_goodbye(self) -> None:
        self._worker.tell(EVERYONE, Kind.GOODBYE, "")

    def tick(self) -> None:
        """Send ALIVE if it is due, and expire processes. To be called several times per
        `presence_ttl`."""
        now = time.monotonic()
        if now - self._told_alive >= self._ttl / 3:
            if now - self._told_alive > self._ttl * 0.8:
                self.begin()  # this process did not run for a while, so others may have expired it
            self._told_alive = now
            if self.known.has_someone:
                self._worker.tell(EVERYONE, Kind.ALIVE, "")
        self._changed(self.known.expire())

    def heard(self, room: Subscription | None, envelope: Envelope) -> None:
        """Process a presence message of another process."""
        node = envelope.node
        if envelope.kind is Kind.ALIVE:
            self.known.hear_alive(node)
        elif envelope.kind is Kind.GOODBYE:
            self._changed(self.known.hear_goodbye(node))
        elif envelope.kind is Kind.ASK:
            self._answer(room, str(envelope.message), node)
        elif envelope.kind is Kind.PRESENT:
            self._set_message_listener(node, envelope.message)

    def _answer(self, room: Subscription | None, name: str, node: bytes) -> None:
        is_for_us = room is None  # it arrived on this process's own channel
        if is_for_us or self.known.is_in(name):
            self._tell(node_channel(node), self.known.whole(name))

    def _set_message_listener(self, node: bytes, text: str | bytes) -> None:
        endpoint = self._worker
        try:
            announcement = decode_announcement(text)
        except ValueError:
            endpoint.counters.malformed += 1
            return
        if announcement.room not in endpoint.joined:
            return
        is_changed, must_ask = self.known.hear(node, announcement)
        if must_ask:
            endpoint.tell(node_channel(node), Kind.ASK, announcement.room)
        if is_changed:
            self._changed([announcement.room])

    def _tell(self, channel: str, announcements: Iterable[Announcement]) -> None:
        for announcement in announcements:
            self._worker.tell(channel, Kind.PRESENT, announcement.encode())

    def _changed(self, names: Iterable[str]) -> None:
        for name in names:
            self._worker.call(self._worker.rooms.presence_changed, name)
