"""Signs of life: when a peer that does not answer a ping is alive all the same.

A ping waits behind what was sent before it, and its pong behind what has not been read. So the
time for an answer begins when the ping has been delivered, and a peer that takes data counts as
alive meanwhile, if it takes it at a minimum rate; else one that reads a byte now and then would
keep a connection, and all that waits for it, for ever.
"""

from __future__ import annotations

from typing import NamedTuple

from ..engine.progress import Progress

MIN_RATE = 500
"""Bytes a second that a peer which is behind must acknowledge, on average over `ping_timeout`."""


class AwaitedPong(NamedTuple):
    """A ping whose pong is awaited."""

    payload: bytes
    pinged_at: float
    """When the ping was sent, or would have been but for the data before it."""
    since: float
    """When the present wait of `ping_timeout` began."""
    is_delivered: bool
    """Whether nothing lay before the ping when that began."""
    last: Progress | None = None
    """How far the peer was then, as far as that matters."""
    end: int = 0
    """As many bytes are acknowledged once the ping has been delivered."""

    def has_left(self, look: Progress) -> bool:
        """Whether the ping has been delivered to the peer's system."""
        return look.acknowledged >= self.end or not look.unacknowledged

    def makes_progress(self, look: Progress, now: float) -> bool:
        """Whether the peer takes what lies before the ping, fast enough."""
        if self.last is None or self.has_left(look):
            return False
        taken = look.acknowledged - self.last.acknowledged
        return taken >= MIN_RATE * (now - self.since)

    def is_answered(self, look: Progress, is_busy: bool) -> bool:
        """While nothing is read: whether the peer has sent something since, or its system has
        the ping, and it may not be able to send. `is_busy` says that a listener blocks, for
        which the peer has to wait: then it is enough that its system is there."""
        if self.last is not None and look.received > self.last.received:
            return True
        if is_busy:
            return self.has_left(look) or not look.is_tcp
        return self.has_left(look) and not look.can_send
