"""A Redis cluster: sharded pub/sub, so that a message goes to the one server that has its room.

Two connections to every server. Channel and stream of a room lie in one slot; a slot that has
moved breaks the connection, and the next one asks anew who has what.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

from redis.crc import key_slot
from redis.exceptions import RedisError, ResponseError

from .broker import BrokerError, each_host
from .redis import Pair, RedisBroker, explain

SLOTS = 16384


class RedisClusterBroker(RedisBroker):
    """redis+cluster:// or rediss+cluster://, with one or several of its hosts."""

    publish_command = b"SPUBLISH"
    subscribe_command = b"SSUBSCRIBE"
    unsubscribe_command = b"SUNSUBSCRIBE"

    _pairs: Sequence[Pair] = ()

    async def _connect_pairs(self) -> None:
        seeds = [url.replace("+cluster://", "://", 1) for url in each_host(self.url)]
        self._of_slot: list[Pair | None] = [None] * SLOTS
        pairs: dict[str, Pair] = {}
        seed, ranges = await self._ask(seeds)
        for first, last, (host, port, *_), *_ in ranges:
            url = self._at(seed, host.decode() if host else "", port)
            if url not in pairs:
                pairs[url] = Pair(self._pool(url).make_connection, self)
                self._pairs = list(pairs.values())
                await pairs[url].connect()
            for slot in range(first, last + 1):
                self._of_slot[slot] = pairs[url]

    async def _ask(self, seeds: list[str]) -> tuple[str, Any]:
        """The first server that answers, and who has which slots."""
        reason: Exception = BrokerError("no server")
        for seed in seeds:
            pair = Pair(self._pool(seed).make_connection, self)
            try:
                await pair.commands.connect()  # type: ignore[no-untyped-call]
                ranges = await pair.call([b"CLUSTER", b"SLOTS"])
            except ResponseError as error:
                raise BrokerError(f"this is not a server of a cluster: {error}") from error
            except (RedisError, OSError) as error:
                reason = error
            else:
                if ranges:
                    return seed, ranges
                reason = BrokerError(f"the cluster at {urlsplit(seed).netloc} has no slots")
            finally:
                await pair.close()
        raise BrokerError(explain(reason)) from reason

    @staticmethod
    def _at(seed: str, host: str, port: int) -> str:
        """The URL of another server: only host and port differ."""
        parts = urlsplit(seed)
        user, at, _ = parts.netloc.rpartition("@")
        host = host if host not in ("", "?") else parts.hostname or ""
        name = f"[{host}]" if ":" in host else host
        return parts._replace(netloc=f"{user}{at}{name}:{port}").geturl()

    def pairs(self) -> Iterable[Pair]:
        return self._pairs

    def pair_of(self, name: bytes) -> Pair:
        pair = self._of_slot[key_slot(name)]
        if pair is None:
            raise BrokerError(f"no server of the cluster has the slot of {name!r}")
        return pair

    def groups(self, names: list[bytes]) -> list[list[bytes]]:
        of_slot: dict[int, list[bytes]] = {}
        for name in names:
            of_slot.setdefault(key_slot(name), []).append(name)
        return list(of_slot.values())
