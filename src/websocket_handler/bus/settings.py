"""What can be set of a bus, what it says of itself: plain values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from .names import check_prefix

MIB = 1 << 20

IDLE_EXPIRY = 30 * 24 * 60 * 60
"""Seconds. Without an `age`, Redis forgets the history of a room so long after its last message,
and JetStream each message after so long."""


class BusState(Enum):
    """How a bus stands to its broker."""

    CONNECTING = "connecting"
    """It has not been there yet; what is published waits."""
    UP = "up"
    DOWN = "down"
    """The broker is away, silent or refuses; it is tried again and again."""
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class History:
    """How much of what was sent to a room the broker keeps. Either may be None, not both."""

    length: int | None = 1000
    """The last so many messages of each room."""

    age: float | None = None
    """Those of the last so many seconds. None: nothing is kept for ever, but for 30 days after
    the last message of the room (with NATS, each message for 30 days)."""

    def __post_init__(self) -> None:
        if self.length is None and self.age is None:
            raise ValueError("a history without length and age would grow for ever")
        for name, value in (("length", self.length), ("age", self.age)):
            if value is not None and value <= 0:
                raise ValueError(f"{name} cannot be {value!r}")


@dataclass(frozen=True, slots=True)
class BusSettings:
    """Sizes are in bytes, times in seconds."""

    on_unavailable: Literal["queue", "raise"] = "queue"
    """What `publish` does while the broker is away: let the message wait, or raise
    `BusUnavailable`."""

    queue_size: int = 100_000
    """The most messages that wait for the broker; with more, `publish` raises."""

    queue_bytes: int = 64 * MIB
    """The most bytes that wait."""

    heartbeat_interval: float = 5.0
    """How often the bus sends itself something through the broker."""

    silence_timeout: float = 10.0
    """With nothing heard for this long, not even the own heartbeat, the broker is taken for
    dead and connected to anew."""

    connect_timeout: float = 5.0
    """How long one attempt to connect may take."""

    backoff_min: float = 0.05
    """The pause after the first failed attempt; it doubles with each further one, and is
    shortened by up to half at random so that not all processes come back at once."""

    backoff_max: float = 1.0
    """The longest pause: how late, at most, the return of the broker is noticed."""

    presence_ttl: float = 30.0
    """Those present in a process that was killed are gone after this."""

    exit_timeout: float = 3.0
    """How long the end of the process waits for what was published to reach the broker."""

    prefix: str = "websocket-handler"
    """Begins every name that the broker sees; two applications on one broker need two.
    Letters, digits, - and _."""

    def __post_init__(self) -> None:
        if self.on_unavailable not in ("queue", "raise"):
            raise ValueError(f"on_unavailable is 'queue' or 'raise', not {self.on_unavailable!r}")
        for name in (
            "queue_size",
            "queue_bytes",
            "heartbeat_interval",
            "silence_timeout",
            "connect_timeout",
        ):
            self._require_positive(name)
        for name in ("backoff_min", "backoff_max", "presence_ttl"):
            self._require_positive(name)
        if self.silence_timeout <= self.heartbeat_interval:
            raise ValueError("silence_timeout must be longer than heartbeat_interval")
        if self.exit_timeout < 0:
            raise ValueError(f"exit_timeout cannot be {self.exit_timeout!r}")
        check_prefix(self.prefix)

    def _require_positive(self, name: str) -> None:
        if getattr(self, name) <= 0:
            raise ValueError(f"{name} cannot be {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True)
class BusStats:
    """What a bus has done so far."""

    state: BusState
    published: int
    """Messages that are with the broker."""
    received: int
    """Messages handed to this process, its own not counted."""
    echoed: int
    """Own messages that came back from the broker."""
    duplicates: int
    """Messages that came again, after a retry, and were skipped."""
    malformed: int
    """Messages from elsewhere that made no sense, and were ignored."""
    lost: int
    """Messages that are known not to have come."""
    refused: int
    """Own messages that the broker would not take, for their size."""
    queued: int
    """Messages that wait for the broker now."""
    queued_bytes: int
    rooms: int
    """Joined rooms whose messages are heard."""
    attempts: int
    """How often a connection was tried."""
    connects: int
    """Connections that were established; all but the first are reconnects."""

    @property
    def reconnects(self) -> int:
        return max(0, self.connects - 1)


class Counters:
    """The numbers of `BusStats`."""

    def __init__(self) -> None:
        self.published = self.received = self.echoed = self.duplicates = 0
        self.malformed = self.lost = self.refused = self.attempts = self.connects = 0
