"""Redis Cluster with sharded pub/sub: a message goes only to the server that owns its room's slot.

There are two connections to every server. The channel and the stream of a room are in one slot. If
a slot moves to another server, the connection fails, and the next one asks for the slots again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from redis.crc import key_slot
from redis.exceptions import RedisError, ResponseError

from .broker import BrokerError
from .broker_url import BrokerURL, Host
from .redis import ConnectionPair, RedisBroker

SLOTS = 16384


class RedisClusterBroker(RedisBroker):
    """The broker for redis+cluster:// and rediss+cluster:// URLs with one or more hosts of the
    cluster."""

    publish_command = b"SPUBLISH"
    subscribe_command = b"SSUBSCRIBE"
    unsubscribe_command = b"SUNSUBSCRIBE"

    _pairs: Sequence[ConnectionPair] = ()

    async def _connect_pairs(self) -> None:
        self._of_slot: list[ConnectionPair | None] = [None] * SLOTS
        pairs: dict[Host, ConnectionPair] = {}
        seed, ranges = await self._ask()
        for first, last, (name, port, *_), *_ in ranges:
            host = self._host(seed, name.decode() if name else "", port)
            if host not in pairs:
                pairs[host] = ConnectionPair(self._pool(self.url.at(host)).make_connection, self)
                self._pairs = list(pairs.values())
                await pairs[host].connect()
            for slot in range(first, last + 1):
                self._of_slot[slot] = pairs[host]

    async def _ask(self) -> tuple[BrokerURL, Any]:
        """Return the first server that answers, and the slots of every server."""
        reason: Exception = BrokerError("no server")
        for seed in map(self.url.at, self.url.hosts):
            pair = ConnectionPair(self._pool(seed).make_connection, self)
            try:
                await pair.commands.connect()
                ranges = await pair.call([b"CLUSTER", b"SLOTS"])
            except ResponseError as error:
                text = self.explain(error)
                raise BrokerError(f"not a server of a Redis cluster: {text}") from error
            except (RedisError, OSError) as error:
                reason = error
            else:
                if ranges:
                    return seed, ranges
                reason = BrokerError(f"the cluster at {seed.hosts[0]} has no slots")
            finally:
                await pair.close()
        raise BrokerError(self.explain(reason)) from reason

    @staticmethod
    def _host(seed: BrokerURL, name: str, port: int) -> Host:
        """Return the address of a server. If the cluster does not know its host, use the seed's."""
        return Host(name if name not in ("", "?") else seed.hosts[0].name, port)

    def pairs(self) -> Iterable[ConnectionPair]:
        return self._pairs

    def pair_of(self, name: bytes) -> ConnectionPair:
        pair = self._of_slot[key_slot(name)]
        if pair is None:
            raise BrokerError(f"no server of the cluster has the slot of {name!r}")
        return pair

    def groups(self, names: list[bytes]) -> list[list[bytes]]:
        of_slot: dict[int, list[bytes]] = {}
        for name in names:
            of_slot.setdefault(key_slot(name), []).append(name)
        return list(of_slot.values())
