"""Redis with Sentinel: the Sentinels name the primary server.

Each new connection asks them again, so that the bus uses the new primary after a failover.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from redis.exceptions import RedisError, ResponseError

from .broker import BrokerError
from .broker_url import BrokerURL, Host
from .redis import ConnectionPair, RedisBroker


class RedisSentinelBroker(RedisBroker):
    """The broker for redis+sentinel:// and rediss+sentinel:// URLs.

    The hosts are those of the Sentinels, followed by the name of the service. User and password are
    those of the Redis servers. The Sentinels have the same ones, or none.
    """

    async def _connect_pairs(self) -> None:
        primary = self.url.at(await self._primary())
        self._pair = ConnectionPair(self._pool(primary).make_connection, self)
        await self._pair.connect()

    async def _primary(self) -> Host:
        """Return the address of the primary, from the first Sentinel that knows the service."""
        reasons = []
        for host in self.url.hosts:
            timeout = self.settings.connect_timeout / len(self.url.hosts)
            try:
                return await asyncio.wait_for(self._ask(self.url.at(host)), timeout)
            except (RedisError, OSError, BrokerError, asyncio.TimeoutError) as error:
                reasons.append(f"{host}: {self.explain(error)}")
        raise BrokerError(f"no Sentinel knows the primary: {'; '.join(reasons)}")

    async def _ask(self, sentinel: BrokerURL) -> Host:
        try:
            return await self._ask_as(sentinel)
        except (RedisError, BrokerError):
            if not (sentinel.user or sentinel.password):
                raise
            return await self._ask_as(replace(sentinel, user=None, password=None))

    async def _ask_as(self, sentinel: BrokerURL) -> Host:
        pair = ConnectionPair(self._pool(replace(sentinel, database=0)).make_connection, self)
        try:
            await pair.commands.connect()
            name = self.url.service
            answer = await pair.call([b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", name])
        except ResponseError as error:
            raise BrokerError(f"not a Redis Sentinel: {self.explain(error)}") from error
        finally:
            await pair.close()
        if not answer:
            raise BrokerError(f"no service {self.url.service!r}")
        return Host(answer[0].decode(), int(answer[1]))
