"""The settings, the state and the counters of a bus."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from .names import check_prefix

MIB = 1 << 20

IDLE_EXPIRY_S = 30 * 24 * 60 * 60
"""Without an `age`, seconds after which Redis and local:// drop the history of a room that receives
no messages, and JetStream drops each message."""


class BusState(Enum):
    """The state of the connection between a bus and its broker."""

    CONNECTING = "connecting"
    """Not connected yet; published messages are queued."""
    UP = "up"
    DOWN = "down"
    """The broker is unreachable, unresponsive or rejects the connection; the bus keeps retrying."""
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class History:
    """How many messages of each room the broker stores, and for how long.

    Either limit may be None, but not both.
    """

    length: int | None = 1000
    """The number of latest messages to store for each room. None: no limit."""

    age: float | None = None
    """The time in seconds for which a message is stored.

    None: Redis and local:// drop a room's history 30 days after its last message; JetStream drops
    each message after 30 days.
    """

    def __post_init__(self) -> None:
        if self.length is None and self.age is None:
            raise ValueError("a history needs a length or an age: it would grow without bound")
        for name, value in (("length", self.length), ("age", self.age)):
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be greater than 0, not {value!r}")


@dataclass(frozen=True, slots=True)
class BusSettings:
    """The settings of a bus. Durations are in seconds."""

    on_unavailable: Literal["queue", "raise"] = "queue"
    """While the broker is unreachable, "queue" queues the messages sent to rooms, and "raise" has
    `Room.send` raise `BusUnavailable`."""

    queue_size: int = 100_000
    """The maximum number of messages queued for the broker; beyond it, `Room.send` raises
    `BusUnavailable`."""

    queue_bytes: int = 64 * MIB
    """The maximum size in bytes of the messages queued for the broker."""

    heartbeat_interval: float = 5.0
    """The interval between the heartbeat messages that the bus sends to itself through the
    broker."""

    silence_timeout: float = 10.0
    """The bus reconnects after receiving nothing for this long, not even its own heartbeat."""

    connect_timeout: float = 5.0
    """The timeout of one connection attempt."""

    backoff_min: float = 0.05
    """The pause after the first failed attempt. It doubles after each further one, and is shortened
    at random by up to half, so that the processes do not all reconnect at once."""

    backoff_max: float = 1.0
    """The maximum pause between two attempts."""

    presence_ttl: float = 30.0
    """The time after which the members of a process that was killed are no longer present. With
    local:// they are absent at once."""

    exit_timeout: float = 3.0
    """The maximum time that a process waits on exit for the broker to receive the queued
    messages."""

    prefix: str = "websocket-handler"
    """The beginning of every channel, key, stream and subject name on the broker: letters, digits,
    - and _. Two applications that share a broker need different prefixes."""

    def __post_init__(self) -> None:
        if self.on_unavailable not in ("queue", "raise"):
            raise ValueError(
                f"on_unavailable must be 'queue' or 'raise', not {self.on_unavailable!r}"
            )
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
            raise ValueError(f"exit_timeout must not be negative, not {self.exit_timeout!r}")
        check_prefix(self.prefix)

    def _require_positive(self, name: str) -> None:
        if getattr(self, name) <= 0:
            raise ValueError(f"{name} must be greater than 0, not {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True)
class BusStats:
    """The counters of a bus."""

    state: BusState
    published: int
    """Messages that the broker has received."""
    received: int
    """Messages of other processes that were delivered in this process."""
    echoed: int
    """Messages of this process that the broker sent back."""
    duplicates: int
    """Duplicates, caused by a retry, that were skipped."""
    malformed: int
    """Messages that could not be parsed and were ignored."""
    lost: int
    """Messages known not to have reached this process."""
    refused: int
    """Messages of this process that the broker refused."""
    queued: int
    """Messages in the queue for the broker now."""
    queued_bytes: int
    rooms: int
    """Rooms with members in this process that are subscribed to now."""
    attempts: int
    """Connection attempts."""
    connects: int
    """Established connections; all but the first are reconnects."""

    @property
    def reconnects(self) -> int:
        return max(0, self.connects - 1)


class Counters:
    """The counters of `BusStats` that the bus increments."""

    def __init__(self) -> None:
        self.published = self.received = self.echoed = self.duplicates = 0
        self.malformed = self.lost = self.refused = self.attempts = self.connects = 0
