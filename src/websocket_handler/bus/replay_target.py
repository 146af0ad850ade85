"""The interface of a member to which messages of the history are replayed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class ReplayTarget(Protocol):
    """Called in the bus's thread. No method may block."""

    @property
    def waits_for_broker(self) -> bool:
        """Whether the member waits while the broker is unreachable. If not, that is an error."""

    @property
    def has_left(self) -> bool:
        """Whether the member has left the room."""

    def try_send(self, message: str | bytes, offset: str) -> bool:
        """Send the next message to the member.

        Returns False if the member cannot take it now: the message is given again after
        `call_when_ready`.
        """

    def call_when_ready(self, call: Callable[[], object]) -> None:
        """Call `call` once, from any thread, when the member may take more messages."""

    def on_missed(self, count: int | None) -> None:
        """Messages before the next one are no longer stored; `count` is None if their number is
        unknown."""

    def on_caught_up(self) -> None:
        """The member has every message delivered in this process; live messages follow."""

    def on_error(self, error: Exception) -> None:
        """The messages cannot be replayed, because of `error`."""
