"""What the bus remembers of a room that this process has joined."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from .broker import Offset
from .envelope import Envelope
from .names import room_channel
from .sequences import Sequences

MOST_HELD = 1000


class Joined:
    """In the bus's thread alone."""

    __slots__ = (
        "began",
        "channel",
        "cursor",
        "has_been_ready",
        "held",
        "is_catching_up",
        "is_ready",
        "name",
        "seen",
        "sequences",
        "when_ready",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.channel = room_channel(name)
        self.sequences = Sequences()
        self.is_ready = False
        """Subscribed, and with a history `cursor` is known."""
        self.has_been_ready = False
        self.cursor: Offset = ()
        """The last message of the history that was delivered here."""
        self.began: Offset = ()
        """Where the cursor was when the room was joined."""
        self.seen: Offset = ()
        """The last one that was heard of, and may have to be read."""
        self.is_catching_up = False
        self.held: deque[tuple[Envelope, Offset, Offset]] = deque(maxlen=MOST_HELD)
        """The latest of those heard meanwhile, without a gap: with offset and the one before."""
        self.when_ready: list[Callable[[bool], object]] = []
        """Who waits for it to be ready; called with False if that fails."""

    def tell_ready(self, is_ready: bool) -> None:
        waiting, self.when_ready = self.when_ready, []
        for call in waiting:
            call(is_ready)
