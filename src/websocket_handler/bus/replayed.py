"""A member to which messages of the history are replayed, as the bus sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Replayed(Protocol):
    """Called in the bus's thread, which must not be made to wait."""

    @property
    def has_left(self) -> bool:
        """Whether it wants no more messages."""

    def give(self, message: str | bytes, offset: str) -> bool:
        """The next message. Returns False if the member can take none now: then it is given
        again after `when_ready`."""

    def when_ready(self, call: Callable[[], object]) -> None:
        """Have `call` made, once and from any thread, when the member may take more."""

    def missed(self, count: int | None) -> None:
        """Messages before the next one are not kept any more; None if how many is unknown."""

    def admit(self) -> None:
        """It has everything that was delivered in this process; live messages follow."""

    def failed(self, error: Exception) -> None:
        """It cannot be given the messages."""
