"""What waits for the broker: in order, numbered, up to a bound. From any thread."""

from __future__ import annotations

from collections import OrderedDict, deque
from itertools import islice, takewhile
from typing import NamedTuple

from ..engine.native_locks import native_lock
from ..errors import BusUnavailable
from .envelope import HEAD, Kind, seal
from .thread import wait_until

MOST_ROOMS = 100_000
"""Rooms whose last number is remembered; one beyond it begins anew, above all forgotten ones."""


class Prepared(NamedTuple):
    """A message that the broker will take."""

    room: str
    channel: str
    message: str | bytes
    key: str | None
    content: tuple[int, bytes, bytes]

    @property
    def size(self) -> int:
        """Its bytes on the bus."""
        return HEAD.size + len(self.content[1]) + len(self.content[2])


class Outgoing:
    """A message on its way to the broker."""

    __slots__ = (
        "breaks",
        "context",
        "data",
        "is_acknowledged",
        "is_back",
        "is_early",
        "is_local",
        "is_refused",
        "number",
        "prepared",
    )

    def __init__(
        self, prepared: Prepared, number: int, data: bytes, context: object, is_local: bool
    ) -> None:
        self.is_local = is_local
        """It is for members of this process, among others."""
        self.prepared = prepared
        self.number = number
        self.data = data
        self.context = context
        self.is_early = False
        """It was delivered in this process while the bus was away."""
        self.is_back = False
        """It was received, so the broker has it."""
        self.is_acknowledged = False
        self.is_refused = False
        """The broker does not take it."""
        self.breaks = 0
        """How often the connection broke while it was sent."""


class Outbox:
    """First in, first out."""

    def __init__(self, node: bytes, most: int, most_bytes: int) -> None:
        self._node = node
        self._most = most
        self._most_bytes = most_bytes
        self._lock = native_lock()
        self._waiting: deque[Outgoing] = deque()
        self._numbers: OrderedDict[str, int] = OrderedDict()
        self._forgotten = 0
        self._accepted = 0
        self._finished = 0
        self.size = 0
        """Bytes that wait."""
        self.own: dict[str, dict[int, Outgoing]] = {}
        """With a history: room -> number -> what has not come back from the broker."""

    def __len__(self) -> int:
        return len(self._waiting)

    def put(
        self, prepared: Prepared, context: object, is_local: bool, comes_back: bool
    ) -> tuple[Outgoing, bool]:
        """Add a message; with whether it is the only one. `is_local`: it is for members of this
        process; `comes_back`: by way of the history. Raises `BusUnavailable` if there is no room.
        """
        size = prepared.size
        with self._lock:
            if len(self._waiting) >= self._most or self.size + size > self._most_bytes:
                raise BusUnavailable(
                    f"{len(self._waiting)} messages ({self.size} bytes) wait for the broker "
                    f"already; queue_size and queue_bytes allow no more"
                )
            last = self._numbers.pop(prepared.room, None)
            number = (self._forgotten if last is None else last) + 1
            self._numbers[prepared.room] = number
            if len(self._numbers) > MOST_ROOMS:
                self._forgotten = max(self._forgotten, self._numbers.popitem(last=False)[1])
            data = seal(Kind.MESSAGE, self._node, number, last is None, prepared.content)
            item = Outgoing(prepared, number, data, context, is_local)
            if comes_back:
                self.own.setdefault(prepared.room, {})[number] = item
            self._waiting.append(item)
            self._accepted += 1
            self.size += size
            return item, len(self._waiting) == 1

    def head(self, count: int, size: int) -> list[Outgoing]:
        """The first ones, at least one: up to `count`, of up to `size` bytes."""
        with self._lock:
            batch: list[Outgoing] = []
            for item in islice(self._waiting, count):
                size -= len(item.data)
                if batch and size < 0:
                    break
                batch.append(item)
            return batch

    def done(self, count: int) -> None:
        """The first `count` are with the broker, or given up."""
        with self._lock:
            for _ in range(count):
                item = self._waiting.popleft()
                item.is_acknowledged = True
                self.size -= len(item.data)
            self._finished += count

    # What comes back, with a history

    def back(self, room: str, number: int) -> Outgoing | None:
        """A message of this process has been received; None if nobody waits for it."""
        with self._lock:
            items = self.own.get(room)
            item = items.pop(number, None) if items else None
            if not items:
                self.own.pop(room, None)
            if item is not None:
                item.is_back = True
            return item

    def overtaken(self, room: str, number: int) -> list[Outgoing]:
        """Those before a message of this process that has been received. They will not come back
        any more."""
        with self._lock:
            items = self.own.get(room, {})
            older = list(takewhile(lambda one: one < number, items))
            return [items.pop(one) for one in older]

    def not_back(self, room: str | None = None, acknowledged: bool = False) -> list[Outgoing]:
        """What has not come back yet, of one room or of all; only those which are with the
        broker, if `acknowledged`."""
        with self._lock:
            rooms = self.own.values() if room is None else [self.own.get(room, {})]
            return [
                item
                for items in rooms
                for item in items.values()
                if item.is_acknowledged or not acknowledged
            ]

    def forget(self, room: str) -> None:
        """The room is not subscribed to any more: what the broker has will not come back."""
        with self._lock:
            items = self.own.pop(room, {})
            left = {number: item for number, item in items.items() if not item.is_acknowledged}
            if left:
                self.own[room] = left

    # Waiting

    def flush(self, timeout: float | None) -> bool:
        """Wait until what is here now is with the broker; whether it is."""
        with self._lock:
            wanted = self._accepted
        return wait_until(lambda: self._finished >= wanted, timeout)
