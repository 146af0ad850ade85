"""Sends and receives announcements of presence on the bus."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from .envelope import Envelope, EnvelopeKind
from .names import ALL_PROCESSES, node_channel
from .presence import Announcement, Presence, decode_announcement
from .subscription import Subscription

if TYPE_CHECKING:
    from .worker import BusWorker


class PresenceSync:
    """Connects `Presence`, which does no I/O, to the worker."""

    def __init__(self, worker: BusWorker) -> None:
        self._worker = worker
        self._ttl = worker.settings.presence_ttl
        self.known: Presence = Presence(self._ttl, time.monotonic)
        self._alive_sent_at = time.monotonic()

    def announce(self, room: Subscription, identities: Mapping[str, int]) -> None:
        self._send(room.channel, self.known.announce(room.name, identities))

    def left(self, room: Subscription) -> None:
        """This process no longer has members in the room."""
        self.announce(room, {})

    def forget(self, room: Subscription) -> None:
        """This process no longer receives announcements for the room."""
        self._send(room.channel, self.known.leave(room.name))

    def begin(self) -> None:
        """Announce and ask for everything, after a connect: others may have missed any
        announcement."""
        self._alive_sent_at = time.monotonic()
        for name in self.known.own_rooms():
            self._send(self._worker.joined[name].channel, self.known.snapshot(name))
        for room in self._worker.joined.values():
            self.ask(room)

    def ask(self, room: Subscription) -> None:
        """Ask all processes for their identities in the room."""
        self._worker.send_control(room.channel, EnvelopeKind.ASK, room.name)

    def announce_exit(self) -> None:
        self._worker.send_control(ALL_PROCESSES, EnvelopeKind.EXIT, "")

    def tick(self) -> None:
        """Send ALIVE if it is due, and expire processes. To be called several times per
        `presence_ttl`."""
        now = time.monotonic()
        if now - self._alive_sent_at >= self._ttl / 3:
            if now - self._alive_sent_at > self._ttl * 0.8:
                self.begin()  # this process did not run for a while, so others may have expired it
            self._alive_sent_at = now
            if self.known.has_identities:
                self._worker.send_control(ALL_PROCESSES, EnvelopeKind.ALIVE, "")
        self._changed(self.known.expire())

    def received(self, room: Subscription | None, envelope: Envelope) -> None:
        """Process a presence message of another process."""
        node = envelope.node
        if envelope.kind is EnvelopeKind.ALIVE:
            self.known.mark_alive(node)
        elif envelope.kind is EnvelopeKind.EXIT:
            self._changed(self.known.remove_process(node))
        elif envelope.kind is EnvelopeKind.ASK:
            self._answer(room, str(envelope.message), node)
        elif envelope.kind is EnvelopeKind.PRESENT:
            self._receive_announcement(node, envelope.message)

    def _answer(self, room: Subscription | None, name: str, node: bytes) -> None:
        is_for_us = room is None  # it arrived on this process's own channel
        if is_for_us or self.known.is_in(name):
            self._send(node_channel(node), self.known.snapshot(name))

    def _receive_announcement(self, node: bytes, text: str | bytes) -> None:
        worker = self._worker
        try:
            announcement = decode_announcement(text)
        except ValueError:
            worker.counters.malformed += 1
            return
        if announcement.room not in worker.joined:
            return
        is_changed, must_ask = self.known.apply(node, announcement)
        if must_ask:
            worker.send_control(node_channel(node), EnvelopeKind.ASK, announcement.room)
        if is_changed:
            self._changed([announcement.room])

    def _send(self, channel: str, announcements: Iterable[Announcement]) -> None:
        for announcement in announcements:
            self._worker.send_control(channel, EnvelopeKind.PRESENT, announcement.encode())

    def _changed(self, names: Iterable[str]) -> None:
        for name in names:
            self._worker.call(self._worker.rooms.presence_changed, name)
