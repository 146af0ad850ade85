"""What the bus wants of a broker: one connection to it, that lives until it breaks.

A broker knows channels, bytes and offsets; nothing of rooms' members, and it never reconnects:
the bus makes a new one. All of it runs in the bus's thread, in its event loop.
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
"""Where a message lies in the history of its room. () is before the first of any history."""

Receive = Callable[[str, bytes, "Offset | None", "Offset | None"], None]
"""Called with channel, data, offset and the offset of the message before it in that channel;
None for what is not in the history."""


class BrokerError(Exception):
    """The connection cannot be made, or is of no use any more; the text says why to a person."""


class ChannelsRefused(BrokerError):
    """The broker refuses the history of some channels; the connection stays usable."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        super().__init__("; ".join(sorted(set(reasons.values()))))
        self.reasons = reasons
        """Channel -> why."""


Refusals = Mapping[int, str]
"""Index of a message -> why the broker refused it, and does so whenever it is sent again."""


class Entry(NamedTuple):
    """What is to be kept in the history."""

    channel: str
    node: bytes
    number: int
    data: bytes


class Tip(NamedTuple):
    """Where the history of a channel ends."""

    offset: Offset
    """Of its last message, or of its beginning if it has none."""
    data: bytes | None
    """That message, if the broker gives it; None otherwise."""


class Page(NamedTuple):
    """A piece of a channel's history."""

    entries: list[tuple[Offset, bytes]]
    missing: int | None
    """How many between where it was asked to begin and its first entry are not kept any more;
    None if that cannot be known."""

    def next_count(self, count: int, largest: int, most_bytes: int) -> int:
        """How many to read after this page, which was to have `count`: at most `largest`, of
        about `most_bytes`."""
        size = sum(len(data) for _, data in self.entries)
        if size > most_bytes:
            return max(1, count // 2)
        return min(2 * count, largest) if 2 * size <= most_bytes else count


class Broker(ABC):
    """One connection to a broker. Every method raises `BrokerError` when it breaks."""

    limit: int
    """The most bytes of one message."""

    def __init__(
        self, url: BrokerURL, settings: BusSettings, history: History | None, receive: Receive
    ) -> None:
        self.url = url
        self.settings = settings
        self.history = history
        self.receive = receive
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fail(self, reason: str) -> None:
        """Let the bus know that the connection is gone."""
        if not self.broken.done():
            self.broken.set_exception(BrokerError(reason))
            self.broken.exception()  # it is not always asked for

    @abstractmethod
    async def connect(self) -> None:
        """Connect, authenticate, and find out `limit`."""

    @abstractmethod
    async def subscribe(self, channels: Sequence[str]) -> Mapping[str, str]:
        """Returns once everything published to them from now on will be received: the channels
        that the broker refused to this user, and why."""

    @abstractmethod
    async def unsubscribe(self, channels: Sequence[str]) -> None: ...

    @abstractmethod
    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> Refusals:
        """Send (channel, data), in order, all at once; returns once the broker has answered."""

    @abstractmethod
    async def append(self, entries: Sequence[Entry]) -> Refusals:
        """Keep them in the history and publish them. An entry that is there already is not
        kept again."""

    @abstractmethod
    async def tips(self, channels: Sequence[str]) -> list[Tip]:
        """The last message of each. A history that the broker does not have begins with this.
        Raises `ChannelsRefused`, as `read` does."""

    @abstractmethod
    async def read(
        self, channel: str, after: Offset, count: int, identity: tuple[bytes, int] | None
    ) -> Page:
        """Up to `count` messages that came after an offset of this history; fewer only if there
        are no more. `identity` is process and number of the message at that offset, if known."""

    @abstractmethod
    def is_same_history(self, one: Offset, other: Offset) -> bool:
        """Whether both lie in one history: a broker that has lost its data begins another."""

    @abstractmethod
    def beginning(self, offset: Offset) -> Offset:
        """The offset before the first message of the history in which this one lies."""

    def is_beginning(self, offset: Offset) -> bool:
        return not offset or offset == self.beginning(offset)

    def count_between(self, after: Offset, last: Offset) -> int | None:  # noqa: ARG002
        """How many messages there were after one up to another; None if that is unknown."""
        return None

    async def check(self) -> None:  # noqa: B027  (most brokers have nothing to check)
        """Raises `BrokerError` if what is published does not get to the others although the
        broker takes it; called with each heartbeat."""

    @abstractmethod
    def parse_offset(self, text: str) -> Offset:
        """ValueError for what is none."""

    @abstractmethod
    async def close(self) -> None:
        """Disconnect; raises nothing."""


class Kind(NamedTuple):
    """Where the class for a scheme is, and what it needs."""

    module: str
    name: str
    library: str
    extra: str
    assumed_limit: int


REDIS = Kind("redis", "RedisBroker", "redis", "redis", 1 << 24)
REDIS_CLUSTER = REDIS._replace(module="redis_cluster", name="RedisClusterBroker")
REDIS_SENTINEL = REDIS._replace(module="redis_sentinel", name="RedisSentinelBroker")
NATS = Kind("nats", "NatsBroker", "nats", "nats", 1 << 20)

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
}


def broker_class(kind: Kind) -> type[Broker]:
    """ImportError that names the extra where the library is missing."""
    try:
        import_module(kind.library)
    except ImportError:
        raise ImportError(
            f"rooms over this broker need the library of the extra [{kind.extra}]: "
            f"pip install 'websocket-handler[{kind.extra}]'"
        ) from None
    found: type[Broker] = getattr(import_module(f".{kind.module}", __package__), kind.name)
    return found
