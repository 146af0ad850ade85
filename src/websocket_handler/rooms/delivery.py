"""The result of sending a message to a room."""

from __future__ import annotations

from typing import NamedTuple


class Delivery(NamedTuple):
    """The result of sending a message to the members in this process."""

    sent: int = 0
    """Members to whose connection the message was handed."""
    queued: int = 0
    """Slow members: the message is queued for them."""
    dropped: int = 0
    """Messages dropped: this one, or older ones that were dropped to queue this one."""

    def __add__(self, other: Delivery) -> Delivery:  # type: ignore[override]
        return Delivery(
            self.sent + other.sent, self.queued + other.queued, self.dropped + other.dropped
        )
