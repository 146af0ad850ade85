"""The processes of one machine without a server: Unix sockets, and SQLite for the history.

Every process has a connection to every other one (`local_siblings`), and sends a message once to
each that has joined the room. With a history, a message is first stored (`local_history`). A
history that fails does not stop the delivery: messages are then sent without an offset, and refused
for the history.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from ..bus.envelope import EnvelopeKind, encode_content, seal
from ..bus.names import ALL_PROCESSES
from .broker import Broker, BrokerError, ChannelsRefused, Entry, Offset, Page, Refusals, Tip
from .local_directory import Directory, open_directory
from .local_frames import MAX_ENVELOPE_BYTES, MESSAGE, PLACE, STORED
from .local_history import HistoryFailed, LocalHistory, Stored
from .local_siblings import Siblings

logger: logging.Logger = logging.getLogger("websocket_handler")

Result = TypeVar("Result")

MAX_NUMBER = 1 << 63


class LocalBroker(Broker):
    """The processes that use one directory."""

    _directory: Directory | None = None
    _siblings: Siblings | None = None
    _history: LocalHistory | None = None

    async def connect(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        if not sys.platform.startswith("linux"):
            raise BrokerError("local:// needs Linux; use redis:// or nats://")
        self.limit = MAX_ENVELOPE_BYTES
        self._directory = open_directory(self.url.path)
        self._siblings = Siblings(
            self._directory,
            self.settings.prefix,
            self.settings.queue_bytes,
            self._received,
            self._ended,
            self._was_cut_off,
        )
        self._siblings.open()
        if self.history is not None:
            path = self._directory.path / f"{self.settings.prefix}.sqlite3"
            self._history = LocalHistory(path, self.history)
        logger.info("the rooms of %s use the directory %s", self.url, self._directory.path)

    async def check(self) -> None:
        self._peers.check()
        if self._history is not None:
            try:
                await self._history.sweep()
            except HistoryFailed as error:
                logger.debug("cannot remove old messages from the history: %s", error)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._siblings is not None:
            self._siblings.close()
        if self._history is not None:
            self._history.close()
        if self._directory is not None:
            os.close(self._directory.fd)
            self._directory = None

    @property
    def _peers(self) -> Siblings:
        assert self._siblings is not None
        return self._siblings

    # Siblings

    def _received(self, kind: int, channel: bytes, data: bytes) -> None:
        name = channel.decode()
        if name not in self._peers.channels:
            return
        if kind == MESSAGE:
            self.receive(name, data, None, None)
        elif kind == STORED:
            if len(data) < PLACE.size:
                raise ValueError("a stored message without its place")
            epoch, position, previous = PLACE.unpack_from(data)
            self.receive(name, data[PLACE.size :], (epoch, position), (epoch, previous))

    def _ended(self, node: bytes) -> None:
        """A sibling has ended, perhaps between storing a message and sending it to all."""
        announcement = seal(EnvelopeKind.EXIT, node, 0, True, encode_content("", None))
        self.receive(ALL_PROCESSES, announcement, None, None)
        if self._history is not None:
            task = asyncio.ensure_future(self._receive_last(node))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _receive_last(self, node: bytes) -> None:
        assert self._history is not None
        try:
            for stored in await self._history.last_of(node, self._peers.channels):
                if not self.broken.done() and self._directory is not None:
                    self.receive(stored.channel, stored.data, stored.offset, stored.previous)
        except HistoryFailed:
            pass  # the next message of the room shows the gap

    def _was_cut_off(self) -> None:
        self.fail("this process did not read its messages for too long, and missed some")

    # Channels

    async def subscribe(self, channels: Sequence[str]) -> dict[str, str]:
        self._peers.subscribe(channels)
        await self._peers.wait_for_slow()
        return {}

    async def unsubscribe(self, channels: Sequence[str]) -> None:
        self._peers.unsubscribe(channels)

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> Refusals:
        await self._send([(channel, MESSAGE, data) for channel, data in messages])
        for channel, data in messages:
            if channel in self._peers.channels:
                self.receive(channel, data, None, None)
        return {}

    async def _send(self, messages: Sequence[tuple[str, int, bytes]]) -> None:
        peers = self._peers
        peers.poll()
        peers.send(messages)
        await asyncio.sleep(0)  # the event loop also reads, however much there is to send
        await peers.wait_for_slow()

    # The history

    async def append(self, entries: Sequence[Entry]) -> Refusals:
        assert self._history is not None
        try:
            stored = await self._history.append(entries)
        except HistoryFailed as error:
            await self._send([(entry.channel, MESSAGE, entry.data) for entry in entries])
            return dict.fromkeys(range(len(entries)), f"it is not in the history: {error}")
        await self._send([(one.channel, STORED, _with_place(one)) for one in stored])
        for one in stored:
            if one.channel in self._peers.channels:
                self.receive(one.channel, one.data, one.offset, one.previous)
        return {}

    async def tips(self, channels: Sequence[str]) -> list[Tip]:
        assert self._history is not None
        return await self._asked(channels, self._history.tips(channels))

    async def read(
        self,
        channel: str,
        after: Offset,
        count: int,
        identity: tuple[bytes, int] | None,  # noqa: ARG002  (an offset is of one message)
    ) -> Page:
        assert self._history is not None
        return await self._asked([channel], self._history.read(channel, after, count))

    async def _asked(self, channels: Sequence[str], answer: Awaitable[Result]) -> Result:
        try:
            return await answer
        except HistoryFailed as error:
            raise ChannelsRefused(dict.fromkeys(channels, str(error))) from error

    def is_same_history(self, one: Offset, other: Offset) -> bool:
        return self.beginning(one) == self.beginning(other)

    def beginning(self, offset: Offset) -> Offset:
        return (offset[0], 0) if offset else ()

    def count_between(self, after: Offset, last: Offset) -> int | None:
        is_known = self.is_same_history(after, last) and last > after
        return last[1] - after[1] if is_known else None

    def parse_offset(self, text: str) -> Offset:
        epoch, _, position = text.partition("-")
        if all(part.isascii() and part.isdigit() for part in (epoch, position)):
            offset = int(epoch[:20]), int(position[:20])
            if max(offset) < MAX_NUMBER:
                return offset if offset[0] else ()
        raise ValueError(f"not an offset of a room's history: {text!r}")


def _with_place(stored: Stored) -> bytes:
    epoch, position = stored.offset
    return PLACE.pack(epoch, position, stored.previous[1]) + stored.data
