"""Signs of life: decides whether a peer that has not answered a ping is alive.

A ping waits behind data that was sent before it, and its pong behind data that we have not read.
So `ping_timeout` begins when the ping has been delivered. Until then, a peer is alive if it
acknowledges data at a minimum rate: without one, a peer that reads a byte now and then would keep
its connection and its buffers for ever.
"""

from __future__ import annotations

from typing import NamedTuple

from ..engine.progress import Progress

MIN_RATE = 500
"""Bytes per second that a slow peer must acknowledge, on average over `ping_timeout`."""


class AwaitedPong(NamedTuple):
    """A ping whose pong is awaited."""

    payload: bytes
    pinged_at: float
    """When the ping was sent, or would have been sent without the data before it."""
    since: float
    """When the current period of `ping_timeout` began."""
    is_delivered: bool
    """Whether no data waited before the ping at that time."""
    last: Progress | None = None
    """The peer's progress at that time, if it is needed."""
    end: int = 0
    """The count of acknowledged bytes at which the ping has been delivered."""

    def has_left(self, look: Progress) -> bool:
        """Whether the ping has been delivered to the peer's system."""
        return look.acknowledged >= self.end or not look.unacknowledged

    def makes_progress(self, look: Progress, now: float) -> bool:
        """Whether the peer acknowledges the data before the ping at `MIN_RATE` or faster."""
        if self.last is None or self.has_left(look):
            return False
        taken = look.acknowledged - self.last.acknowledged
        return taken >= MIN_RATE * (now - self.since)

    def is_answered(self, look: Progress, is_busy: bool) -> bool:
        """Whether the peer counts as alive while reading is paused.

        It does if it has sent data since `last`, or if the ping was delivered and our receive
        buffer may be too full for its pong. With `is_busy`, a listener blocks and the peer has to
        wait for it: then delivery of the ping suffices.
        """
        if self.last is not None and look.received > self.last.received:
            return True
        if is_busy:
            return self.has_left(look) or not look.is_tcp
        return self.has_left(look) and not look.can_send
