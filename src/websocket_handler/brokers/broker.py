"""The interface of a broker: one connection, used until it fails.

A broker handles channels, bytes and offsets, and does not know the members of rooms. It never
reconnects: the bus creates a new one. Everything runs in the event loop of the bus's thread.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import NamedTuple

from ..bus.settings import BusSettings, History
from .broker_url import BrokerURL

Offset = tuple[int, ...]
"""The position of a message in the history of its room. () is before the first message."""

Receive = Callable[[str, bytes, "Offset | None", "Offset | None"], None]
"""Called with the channel, the data, the offset, and the offset of the previous message in that
channel. Both offsets are None for a message that is not in the history."""


class BrokerError(Exception):
    """The connection cannot be made, or has failed; the text is a readable reason."""


class ChannelsRefused(BrokerError):
    """The broker refuses access to the history of some channels; the connection remains usable."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        super().__init__("; ".join(sorted(set(reasons.values()))))
        self.reasons = reasons
        """Channel -> reason."""


Refusals = Mapping[int, str]
"""Index of a message -> the reason for a permanent refusal."""


class Entry(NamedTuple):
    """A message to store in the history."""

    channel: str
    node: bytes
    number: int
    data: bytes


class Tip(NamedTuple):
    """The end of a channel's history."""

    offset: Offset
    """The offset of the last message, or of the beginning if there is none."""
    data: bytes | None
    """The last message, or None if the broker does not return it."""


class Page(NamedTuple):
    """A page of a channel's history."""

    entries: list[tuple[Offset, bytes]]
    missing: int | None
    """The number of messages between the requested start and the first entry that are no longer
    stored; None if unknown."""

    def next_count(self, count: int, max_count: int, max_bytes: int) -> int:
        """Return how many messages to request next, after a page for which `count` were requested.

        Aims at pages of about `max_bytes`, with at most `max_count` messages.
        """
        size = sum(len(data) for _, data in self.entries)
        if size > max_bytes:
            return max(1, count // 2)
        return min(2 * count, max_count) if 2 * size <= max_bytes else count


class Broker(ABC):
    """One connection to a broker. Every method raises `BrokerError` if the connection fails."""

    limit: int
    """The maximum size of a message in bytes."""

    def __init__(
        self, url: BrokerURL, settings: BusSettings, history: History | None, receive: Receive
    ) -> None:
        self.url = url
        self.settings = settings
        self.history = history
        self.receive = receive
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fail(self, reason: str) -> None:
        """Report to the bus that the connection has failed."""
        if not self.broken.done():
            self.broken.set_exception(BrokerError(reason))
            self.broken.exception()  # marks it as retrieved, for asyncio's log

    @abstractmethod
    async def connect(self) -> None:
        """Connect, authenticate, and set `limit`."""

    @abstractmethod
    async def subscribe(self, channels: Sequence[str]) -> Mapping[str, str]:
        """Subscribe to channels. Returns when every message published from now on will be received.

        The result maps each channel that the broker refused to this user to the reason.
        """

    @abstractmethod
    async def unsubscribe(self, channels: Sequence[str]) -> None: ...

    @abstractmethod
    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> Refusals:
        """Publish (channel, data) pairs in order. Returns when the broker has answered for all of
        them."""

    @abstractmethod
    async def append(self, entries: Sequence[Entry]) -> Refusals:
        """Store messages in the history and publish them. An entry already stored is not stored
        again."""

    @abstractmethod
    async def tips(self, channels: Sequence[str]) -> list[Tip]:
        """Return the end of each channel's history. A history that does not exist yet is begun.

        Raises `ChannelsRefused`, as `read` does.
        """

    @abstractmethod
    async def read(
        self, channel: str, after: Offset, count: int, identity: tuple[bytes, int] | None
    ) -> Page:
        """Return up to `count` messages after an offset of this history; fewer only at its end.

        `identity` is the process and number of the message at that offset, if known.
        """

    @abstractmethod
    def is_same_history(self, one: Offset, other: Offset) -> bool:
        """Whether both offsets are in one history. A broker that has lost its data starts another
        one."""

    @abstractmethod
    def beginning(self, offset: Offset) -> Offset:
        """Return the offset before the first message of the history that contains `offset`."""

    def is_beginning(self, offset: Offset) -> bool:
        return not offset or offset == self.beginning(offset)

    def count_between(self, after: Offset, last: Offset) -> int | None:  # noqa: ARG002
        """Return the number of messages after one offset up to another; None if unknown."""
        return None

    async def check(self) -> None:  # noqa: B027  (most brokers have nothing to check)
        """Raise `BrokerError` if the broker accepts messages that do not reach the other processes.

        Called with each heartbeat.
        """

    @abstractmethod
    def parse_offset(self, text: str) -> Offset:
        """Parse an offset. Raises `ValueError` if the text is not a valid offset."""

    @abstractmethod
    async def close(self) -> None:
        """Disconnect. Raises nothing."""


class BrokerKind(NamedTuple):
    """The module and class for a scheme, and the library that it needs."""

    module: str
    name: str
    library: str
    extra: str
    assumed_limit: int


REDIS = BrokerKind("redis", "RedisBroker", "redis", "redis", 1 << 24)
REDIS_CLUSTER = REDIS._replace(module="redis_cluster", name="RedisClusterBroker")
REDIS_SENTINEL = REDIS._replace(module="redis_sentinel", name="RedisSentinelBroker")
NATS = BrokerKind("nats", "NatsBroker", "nats", "nats", 1 << 20)
LOCAL = BrokerKind("local", "LocalBroker", "socket", "", 1 << 24)

KINDS = {
    "redis": REDIS,
    "rediss": REDIS,
    "unix": REDIS,
    "redis+cluster": REDIS_CLUSTER,
    "rediss+cluster": REDIS_CLUSTER,
    "redis+sentinel": REDIS_SENTINEL,
    "rediss+sentinel": REDIS_SENTINEL,
    "nats": NATS,
    "tls": NATS,
    "nats+tls": NATS,
    "local": LOCAL,
}


def broker_class(kind: BrokerKind) -> type[Broker]:
    """Return the class for a kind of broker.

    Raises `ImportError`, which names the extra to install, if the broker's library is missing.
    """
    try:
        import_module(kind.library)
    except ImportError:
        raise ImportError(
            f"this broker needs the library of the extra [{kind.extra}]: "
            f"pip install 'websocket-handler[{kind.extra}]'"
        ) from None
    found: type[Broker] = getattr(import_module(f".{kind.module}", __package__), kind.name)
    return found
