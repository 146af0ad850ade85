"""A recorder of a bus's callbacks."""

from __future__ import annotations

import itertools
from typing import NamedTuple

from tests.support.programs import wait_for
from websocket_handler.bus.settings import BusState


class Delivered(NamedTuple):
    room: str
    message: str | bytes
    key: str | None
    offset: str | None
    context: object


class Recorder:
    """Implements `BusListener`."""

    def __init__(self) -> None:
        self.delivered: list[Delivered] = []
        self.states: list[tuple[BusState, str]] = []
        self.losses: list[tuple[str, int | None]] = []
        self.refusals: list[tuple[str, str, str]] = []
        self.presence: list[str] = []

    def deliver(
        self, room: str, message: str | bytes, key: str | None, offset: str | None, context: object
    ) -> None:
        self.delivered.append(Delivered(room, message, key, offset, context))

    def bus_changed(self, state: BusState, reason: str) -> None:
        self.states.append((state, reason))

    def lost(self, room: str, count: int | None) -> None:
        self.losses.append((room, count))

    def refused(self, room: str, action: str, reason: str) -> None:
        self.refusals.append((room, action, reason))

    def presence_changed(self, room: str) -> None:
        self.presence.append(room)

    # The recorded calls

    def messages(self, room: str | None = None) -> list[str | bytes]:
        return [what.message for what in self.delivered if room in (None, what.room)]

    def wait_for_messages(self, count: int, timeout_s: float = 10.0) -> list[str | bytes]:
        """Wait for `count` messages; returns them in order."""
        wait_for(lambda: len(self.delivered) >= count, f"{count} messages", timeout_s)
        return self.messages()[:count]

    def wait_for_state(self, state: BusState, timeout_s: float = 10.0) -> str:
        """Wait for the state; returns its reason."""
        wait_for(
            lambda: self.states and self.states[-1][0] is state,
            f"{state}: {self.states}",
            timeout_s,
        )
        return self.states[-1][1]


_names = (f"room-{number}" for number in itertools.count())


def new_room() -> str:
    """A name that no other test has used."""
    return next(_names)


def offsets(recorder: Recorder) -> list[str]:
    return [str(message.offset) for message in recorder.delivered]
