"""The state of a room that this process has joined."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from ..brokers.broker import Offset
from .envelope import Envelope
from .names import room_channel
from .sequences import Sequences

MAX_HELD_MESSAGES = 1000
"""The maximum number of messages kept for a room while it catches up."""


class Subscription:
    """Used in the bus's thread only."""

    __slots__ = (
        "began",
        "channel",
        "cursor",
        "has_been_ready",
        "held",
        "identity",
        "is_catching_up",
        "is_ready",
        "leaving",
        "name",
        "seen",
        "sequences",
        "when_ready",
        "when_subscribed",
    )

    def __init__(self, name: str) -> None:
        self.name: str = name
        self.channel: str = room_channel(name)
        self.sequences: Sequences = Sequences()
        self.is_ready: bool = False
        """Whether it is subscribed to and, with a history, `cursor` is set."""
        self.has_been_ready: bool = False
        self.cursor: Offset = ()
        """The offset of the last message of the history that was delivered here."""
        self.began: Offset = ()
        """The cursor when the room was joined."""
        self.identity: tuple[bytes, int] | None = None
        """The process and number of the message at the cursor, if it was delivered here."""
        self.seen: Offset = ()
        """The offset of the last message received, which may still have to be read."""
        self.is_catching_up: bool = False
        self.held: deque[tuple[Envelope, Offset, Offset]] = deque(maxlen=MAX_HELD_MESSAGES)
        """Messages received while catching up, without a gap: envelope, offset, offset of the
        previous one."""
        self.when_ready: list[Callable[[bool], object]] = []
        """Called with True when the room is ready, with False if it will not be in this session."""
        self.when_subscribed: list[Callable[[bool], object]] = []
        """Like `when_ready`, but kept across reconnects until the room is left or refused."""
        self.leaving: asyncio.TimerHandle | None = None
        """The timer that ends the subscription, set when the last member has left."""

    def notify_ready(self, is_ready: bool) -> None:
        waiting, self.when_ready = self.when_ready, []
        for call in waiting:
            call(is_ready)
        if is_ready:
            self.notify_subscribed(True)

    def notify_subscribed(self, is_subscribed: bool) -> None:
        waiting, self.when_subscribed = self.when_subscribed, []
        for call in waiting:
            call(is_subscribed)
