"""What became of a message that was sent to a room."""

from __future__ import annotations

from typing import NamedTuple


class Delivery(NamedTuple):
    """What became of a message, in this process."""

    sent: int = 0
    """Members whose connection has it."""
    queued: int = 0
    """Members that are behind, for whom it waits."""
    dropped: int = 0
    """Messages lost on the way: this one, or those that had to make place for it."""

    def __add__(self, other: Delivery) -> Delivery:  # type: ignore[override]
        return Delivery(
            self.sent + other.sent, self.queued + other.queued, self.dropped + other.dropped
        )
