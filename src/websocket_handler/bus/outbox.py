"""The queue of messages for the broker: numbered, bounded, safe to use from any thread."""

from __future__ import annotations

from collections import OrderedDict, deque
from itertools import islice, takewhile
from typing import NamedTuple

from ..engine.native_locks import native_lock
from ..errors import BusUnavailable
from .envelope import HEAD, EnvelopeKind, seal
from .thread import wait_until

MAX_REMEMBERED_ROOMS = 100_000
"""The maximum number of rooms whose last message number is remembered.

A room that was forgotten continues above the highest number of all forgotten rooms.
"""


class Prepared(NamedTuple):
    """A message that has been checked and encoded."""

    room: str
    channel: str
    message: str | bytes
    key: str | None
    content: tuple[int, bytes, bytes]

    @property
    def size(self) -> int:
        """The size of its envelope in bytes."""
        return HEAD.size + len(self.content[1]) + len(self.content[2])


class Outgoing:
    """A message in the queue, or one that the broker has not sent back yet."""

    __slots__ = (
        "breaks",
        "context",
        "data",
        "is_acknowledged",
        "is_early",
        "is_echoed",
        "is_local",
        "is_refused",
        "number",
        "prepared",
    )

    def __init__(
        self, prepared: Prepared, number: int, data: bytes, context: object, is_local: bool
    ) -> None:
        self.is_local: bool = is_local
        """This process has members in the room."""
        self.prepared: Prepared = prepared
        self.number: int = number
        self.data: bytes = data
        self.context: object = context
        self.is_early: bool = False
        """It was delivered in this process while the broker was unreachable."""
        self.is_echoed: bool = False
        """The broker has sent it back, so it has been stored."""
        self.is_acknowledged: bool = False
        self.is_refused: bool = False
        """The broker refused it."""
        self.breaks: int = 0
        """How many times the connection was lost while it was being sent."""


class Outbox:
    """A first-in, first-out queue."""

    def __init__(self, node: bytes, max_messages: int, max_bytes: int) -> None:
        self._node = node
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._lock = native_lock()
        self._waiting: deque[Outgoing] = deque()
        self._numbers: OrderedDict[str, int] = OrderedDict()
        self._forgotten = 0
        self._accepted = 0
        self._finished = 0
        self.size: int = 0
        """The size of the queued messages in bytes."""
        self.own: dict[str, dict[int, Outgoing]] = {}
        """With a history: room -> number -> a message that the broker has not sent back."""

    def __len__(self) -> int:
        return len(self._waiting)

    def put(
        self, prepared: Prepared, context: object, is_local: bool, expects_echo: bool
    ) -> tuple[Outgoing, bool]:
        """Add a message. Returns it, and whether it is the only one in the queue.

        `is_local`: this process has members in the room. `expects_echo`: the broker will send it
        back, because there is a history. Raises `BusUnavailable` if the queue is full.
        """
        size = prepared.size
        with self._lock:
            if len(self._waiting) >= self._max_messages or self.size + size > self._max_bytes:
                raise BusUnavailable(
                    f"{len(self._waiting)} messages ({self.size} bytes) wait for the broker "
                    f"already; the limits are queue_size and queue_bytes"
                )
            last = self._numbers.pop(prepared.room, None)
            number = (self._forgotten if last is None else last) + 1
            self._numbers[prepared.room] = number
            if len(self._numbers) > MAX_REMEMBERED_ROOMS:
                self._forgotten = max(self._forgotten, self._numbers.popitem(last=False)[1])
            data = seal(EnvelopeKind.MESSAGE, self._node, number, last is None, prepared.content)
            item = Outgoing(prepared, number, data, context, is_local)
            if expects_echo:
                self.own.setdefault(prepared.room, {})[number] = item
            self._waiting.append(item)
            self._accepted += 1
            self.size += size
            return item, len(self._waiting) == 1

    def head(self, count: int, size: int) -> list[Outgoing]:
        """Return the first messages: at least one, up to `count`, with up to `size` bytes."""
        with self._lock:
            batch: list[Outgoing] = []
            for item in islice(self._waiting, count):
                size -= len(item.data)
                if batch and size < 0:
                    break
                batch.append(item)
            return batch

    def done(self, count: int) -> None:
        """Remove the first `count` messages: the broker has them, or has refused them."""
        with self._lock:
            for _ in range(count):
                item = self._waiting.popleft()
                item.is_acknowledged = True
                self.size -= len(item.data)
            self._finished += count

    # Messages that the broker sends back, with a history

    def acknowledge_echo(self, room: str, number: int) -> Outgoing | None:
        """Record that a message of this process has been received. Returns it, None if it is
        unknown."""
        with self._lock:
            items = self.own.get(room)
            item = items.pop(number, None) if items else None
            if not items:
                self.own.pop(room, None)
            if item is not None:
                item.is_echoed = True
            return item

    def remove_overtaken(self, room: str, number: int) -> list[Outgoing]:
        """Remove and return the messages before one of this process that has been received.

        The history is ordered: the broker will not send them back any more.
        """
        with self._lock:
            items = self.own.get(room, {})
            older = list(takewhile(lambda one: one < number, items))
            return [items.pop(one) for one in older]

    def pending_echoes(self, room: str | None = None, acknowledged: bool = False) -> list[Outgoing]:
        """Return the messages that have not been sent back, of one room or of all.

        `acknowledged`: only those that the broker has confirmed.
        """
        with self._lock:
            rooms = self.own.values() if room is None else [self.own.get(room, {})]
            return [
                item
                for items in rooms
                for item in items.values()
                if item.is_acknowledged or not acknowledged
            ]

    def forget(self, room: str) -> None:
        """Forget confirmed messages of a room that is no longer subscribed to: they will not be
        sent back."""
        with self._lock:
            items = self.own.pop(room, {})
            left = {number: item for number, item in items.items() if not item.is_acknowledged}
            if left:
                self.own[room] = left

    # Waiting

    def flush(self, timeout: float | None) -> bool:
        """Wait until the broker has every message that is queued now. Returns whether it does."""
        with self._lock:
            wanted = self._accepted
        return wait_until(lambda: self._finished >= wanted, timeout)
