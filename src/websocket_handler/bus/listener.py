"""The interface that the bus calls: the rooms of this process."""

from __future__ import annotations

from typing import Protocol

from .settings import BusState


class BusListener(Protocol):
    """Called in the bus's thread. No method may block."""

    def deliver(
        self,
        room: str,
        message: str | bytes,
        key: str | None,
        offset: str | None,
        context: object,
    ) -> None:
        """Deliver a message to the members in this process.

        `offset` is its place in the history, None if it is not stored (yet). `context` is the
        object that was passed to `publish`, None if another process sent the message.
        """

    def bus_changed(self, state: BusState, reason: str) -> None:
        """The state of the bus has changed, for the given reason."""

    def lost(self, room: str, count: int | None) -> None:
        """Messages to the room did not reach this process.

        `count` is None if their number is unknown, and may be 0.
        """

    def refused(self, room: str, action: str, reason: str) -> None:
        """The broker refuses to "send to" the room (once per message) or to "receive from" it."""

    def presence_changed(self, room: str) -> None:
        """The members in other processes have changed."""
