"""What the bus wants of the process it serves: somebody who is told."""

from __future__ import annotations

from typing import Protocol

from .settings import BusState


class BusListener(Protocol):
    """What the bus tells; called in the bus's thread, which must not be made to wait."""

    def deliver(
        self,
        room: str,
        message: str | bytes,
        key: str | None,
        offset: str | None,
        context: object,
    ) -> None:
        """A message for the members that are in this process. `offset` is where it lies in the
        history, None if it is not there (yet); `context` what was given to `publish`, None if
        that was in another process."""

    def bus_changed(self, state: BusState, reason: str) -> None:
        """The bus is up, or it is down and why."""

    def lost(self, room: str, count: int | None) -> None:
        """Messages to the room have not come here; None if how many, or whether any, cannot be
        known."""

    def refused(self, room: str, action: str, reason: str) -> None:
        """The broker refuses to "send to" the room, for each message, or to "receive from" it."""

    def presence_changed(self, room: str) -> None:
        """Others are in the room now, in the other processes."""
