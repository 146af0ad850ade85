"""Changes the history of a room as an administrator or a crash may."""

from __future__ import annotations

import asyncio
import shutil
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any

import nats
import redis
from nats.js.errors import NotFoundError

from websocket_handler.brokers.nats import stream_config
from websocket_handler.bus.names import room_channel
from websocket_handler.bus.settings import History

from .brokers import BrokerProcess


class Admin(ABC):
    """Administers one broker, with one prefix."""

    def __init__(self, broker: BrokerProcess, prefix: str, history: History) -> None:
        self.broker = broker
        self.prefix = prefix
        self.history = history

    @abstractmethod
    def flush(self) -> None:
        """Delete everything."""

    @abstractmethod
    def recreate(self, room: str) -> None:
        """Start the room's history anew."""

    @abstractmethod
    def trim(self, room: str, count: int) -> None:
        """Keep only the last `count` messages of the room."""

    def crash(self) -> None:
        """Kill the broker and restart it without its data."""
        self.broker.kill()
        for path in self.broker.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
        self.broker.start()


class RedisAdmin(Admin):
    def _client(self) -> Any:
        return redis.Redis(port=self.broker.port)

    def _key(self, room: str, kind: str) -> str:
        return f"{{{self.prefix}:{room_channel(room)}}}:{kind}"

    def flush(self) -> None:
        with self._client() as client:
            client.flushall()

    def recreate(self, room: str) -> None:
        with self._client() as client:
            client.delete(self._key(room, "tip"))

    def trim(self, room: str, count: int) -> None:
        with self._client() as client:
            client.xtrim(self._key(room, "stream"), maxlen=count, approximate=False)


class NatsAdmin(Admin):
    @property
    def _stream(self) -> str:
        return f"{self.prefix}-rooms"

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run(work)

    def flush(self) -> None:
        async def work() -> None:
            client = await nats.connect(self.broker.url)
            try:
                await client.jsm().delete_stream(self._stream)
            except NotFoundError:
                pass
            finally:
                await client.close()

        self._run(work())

    def recreate(self, room: str) -> None:  # noqa: ARG002  (all rooms share the stream)
        self.flush()

        async def work() -> None:
            client = await nats.connect(self.broker.url)
            try:
                config = stream_config(self._stream, self.prefix, self.history)
                await client.jsm().add_stream(config)
            finally:
                await client.close()

        self._run(work())

    def trim(self, room: str, count: int) -> None:
        async def work() -> None:
            client = await nats.connect(self.broker.url)
            subject = f"{self.prefix}-kept.{room_channel(room)}"
            try:
                # Without `keep` everything is deleted: the API takes 0 as no limit.
                options = {"keep": count} if count else {}
                await client.jsm().purge_stream(self._stream, subject=subject, **options)
            except NotFoundError:
                pass
            finally:
                await client.close()

        self._run(work())


ADMINS: dict[str, type[Admin]] = {"redis": RedisAdmin, "nats": NatsAdmin}
