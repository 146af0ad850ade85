"""The queue of packets for one client, and their way out.

python-engineio creates one queue per client. While the client polls, the packets wait in it for the
next poll. After the upgrade the same object sends them to the WebSocket, so no packet is lost or
overtaken between the two transports.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Collection
from queue import Empty
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ..engine.forks import in_forked_child
from ..engine.native_locks import native_rlock
from ..settings import Settings
from .packets import attachments_if_volatile, is_noop, noop, size_of

if TYPE_CHECKING:
    from .link import Link

MAX_UNFINISHED_EVENTS = 1024
"""Events of one client whose handlers have not returned; then nothing more is read from it."""

EVENT_UNIT_BYTES = 16 * 1024
"""An event counts as one more for each of these bytes that it has."""


class Owner(Protocol):
    """The server of an outbox."""

    settings: Settings
    volatile: Collection[str]

    def end_session_of(self, outbox: PacketQueue) -> None:
        """End the session of an outbox that overflows, soon."""


class Poll(Protocol):
    """A long poll that waits for packets without a thread."""

    def notify(self) -> None:
        """Respond soon. Called with the outbox locked; must not block."""


class Reservation:
    """Stands for a poll that is going to wait."""

    def notify(self) -> None:
        """Do nothing: `Outbox.wait_for` notifies the poll."""


RESERVED = Reservation()


class MayPark(threading.local):
    """Whether the request that this thread handles may wait without the thread."""

    value: bool = False


may_park: MayPark = MayPark()


class MustWait(BaseException):
    """Raised in `Outbox.get` by a request that may wait without its thread: no packet is there.

    Derives from `BaseException`, so that python-engineio does not handle it.
    """

    def __init__(self, outbox: Outbox) -> None:
        super().__init__()
        self.outbox: Outbox = outbox


class PacketQueue:
    """The packets for one client, and the link that they go to after the upgrade.

    Both ways are bounded by `max_buffered`, and above `high_water` unsent bytes volatile events are
    dropped. The packets of a client that does not poll are dropped, and its session is ended.
    """

    __slots__ = (
        "_attachments_to_drop",
        "_owner",
        "_packets",
        "_queued_bytes",
        "_received_bytes",
        "_unfinished",
        "link",
    )

    _lock: ClassVar = native_rlock()
    """One lock for all clients. It is held only to change a list of packets or a count."""

    def __init__(self, owner: Owner) -> None:
        self.link: Link | None = None
        """The WebSocket that the packets go to; None while the client polls."""
        self._owner = owner
        self._packets: list[Any] = []
        self._queued_bytes = 0
        self._attachments_to_drop = 0
        self._received_bytes = 0
        self._unfinished = 0

    def put_nowait(self, packet: Any) -> None:
        """Send a packet to the WebSocket, or queue it for the next poll."""
        if (self._owner.volatile or self._attachments_to_drop) and self._is_dropped(packet):
            return
        link = self.link or self._queue(packet)
        if link is not None:
            link.send(packet)

    def _queue(self, packet: Any) -> Link | None:
        """Queue a packet. Returns the link, with nothing queued, if the client has upgraded."""
        with self._lock:
            if self.link is not None:
                return self.link
            if self._queued_bytes <= self._owner.settings.max_buffered or packet is None:
                self._packets.append(packet)
                self._queued_bytes += size_of(packet)
                self._notify()
                return None
            is_first = bool(self._packets)
            self._packets = []  # `_queued_bytes` stays: each later packet is dropped, too
        if is_first:
            self._owner.end_session_of(self)
        return None

    def _take_all(self) -> list[Any]:
        """Return the queued packets, and queue no longer. Called with the lock held."""
        packets, self._packets = self._packets, []
        if packets:
            self._queued_bytes = 0
        return packets

    def _take_first(self) -> Any:
        """Return the first queued packet. Called with the lock held."""
        packet = self._packets.pop(0)
        self._queued_bytes -= size_of(packet)
        return packet

    def _is_dropped(self, packet: Any) -> bool:
        """Whether to drop a packet: a volatile event for a slow client, or its attachment."""
        if packet is None:
            return False
        if packet.binary:
            is_dropped = self._attachments_to_drop > 0
            self._attachments_to_drop -= is_dropped
            return is_dropped
        self._attachments_to_drop = 0
        unsent = self._queued_bytes if self.link is None else self.link.websocket.buffered_amount
        if unsent <= self._owner.settings.high_water:
            return False
        attachments = attachments_if_volatile(packet, self._owner.volatile)
        self._attachments_to_drop = attachments or 0
        return attachments is not None

    def switch_to(self, link: Link) -> None:
        """Send the queued packets to the WebSocket, then each later one."""
        while True:
            with self._lock:
                packets = self._take_all()
                if not packets:
                    self.link = link
                    return
            for packet in packets:
                if not is_noop(packet):  # it only ends a poll
                    link.send(packet)

    def task_done(self) -> None:
        """Do nothing; see `join`."""

    def _notify(self) -> None:
        """Wake the poll that waits for packets. Must not block."""
        raise NotImplementedError

    # Events of the application, which run in other threads or tasks

    def count_received(self, size: int, is_attachment: bool = False) -> None:
        """Count the bytes of the next event. An attachment belongs to the message before it."""
        if not is_attachment:
            self._received_bytes = 0
        self._received_bytes += size

    def event_begins(self) -> int:
        """Count an event whose handler is going to run. At the limit, reading pauses. Returns the
        count of the event, for `event_ends`."""
        with self._lock:
            count = 1 + self._received_bytes // EVENT_UNIT_BYTES
            self._received_bytes = 0
            self._unfinished += count
            if self._unfinished >= MAX_UNFINISHED_EVENTS and self.link is not None:
                self.link.websocket.pause()
        return count

    def event_ends(self, count: int) -> None:
        """Uncount an event whose handler has returned."""
        with self._lock:
            before = self._unfinished
            self._unfinished -= count
            if self._unfinished <= MAX_UNFINISHED_EVENTS // 2 < before:
                self._resume()

    def _resume(self) -> None:
        """Read from the client again."""
        if self.link is not None:
            self.link.websocket.resume()


class Outbox(PacketQueue):
    """Replaces the `queue.Queue` of an Engine.IO socket. None in it ends the connection."""

    __slots__ = ("_arrived", "_poll")

    def __init__(self, owner: Owner) -> None:
        super().__init__(owner)
        self._poll: Poll | None = None
        self._arrived: threading.Event | None = None

    @property
    def has_poll(self) -> bool:
        """Whether a poll waits for packets."""
        return self._poll is not None or self._arrived is not None

    # The methods of a queue

    def put(self, packet: Any, block: bool = True, timeout: float | None = None) -> None:  # noqa: ARG002
        self.put_nowait(packet)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Return the next packet. Raises `MustWait` if the request should wait without its thread.

        Raises `queue.Empty`, which ends the session of a poll, if there is no packet in time, or if
        another poll waits: the protocol allows one poll at a time.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._lock:
                if self._packets:
                    return self._take_first()
                if not block or self.has_poll:
                    raise Empty
                if may_park.value:
                    self._poll = RESERVED
                    raise MustWait(self)
                arrived = self._arrived = threading.Event()
            if not arrived.wait(None if end is None else end - time.monotonic()):
                self._arrived = None
                raise Empty

    def join(self) -> None:
        """Return at once. A WebSocket has each packet already; the library would wait for the
        next poll of any other client, which may never come."""

    # Long polls

    def wait_for(self, poll: Poll) -> None:
        """Notify `poll`, which was reserved, once there are packets; now if there are some."""
        with self._lock:
            self._poll = poll
            if self._packets:
                poll.notify()

    def take(self, poll: Poll) -> list[Any] | None:
        """End the wait of `poll`. Returns the packets, without the None that ends the connection.
        Returns None if there are no packets, or if the poll does not wait."""
        with self._lock:
            if self._poll is not poll or not self._packets:
                return None
            self._poll = None
            packets = self._take_all()
        return [packet for packet in packets if packet is not None]

    def forget(self, poll: Poll) -> bool:
        """End the wait of a poll without a response. Returns whether it has waited."""
        with self._lock:
            is_present = self._poll is poll
            if is_present:
                self._poll = None
            return is_present

    def _notify(self) -> None:
        if self._poll is not None:
            self._poll.notify()
        if self._arrived is not None:
            self._arrived.set()
            self._arrived = None


class AsyncOutbox(PacketQueue):
    """Replaces the `asyncio.Queue` of an Engine.IO socket."""

    __slots__ = ("_arrived", "_is_ended", "_resumed")

    def __init__(self, owner: Owner) -> None:
        super().__init__(owner)
        self._arrived: asyncio.Event | None = None
        self._resumed: asyncio.Event | None = None
        self._is_ended = False

    @property
    def has_poll(self) -> bool:
        """Whether a poll waits for packets."""
        return self._arrived is not None

    async def put(self, packet: Any) -> None:
        self.put_nowait(packet)

    async def get(self) -> Any:
        """Return the next packet. Raises `TimeoutError`, which ends the session, if another poll
        waits: the protocol allows one poll at a time."""
        if self.has_poll:
            raise asyncio.TimeoutError
        try:
            while not self._packets:
                self._arrived = asyncio.Event()
                await self._arrived.wait()
            packet = self._take_first()
            return noop() if packet is None else packet
        finally:
            self._arrived = None

    def get_nowait(self) -> Any:
        """Return the next packet. Raises `asyncio.QueueEmpty` if there is none."""
        if not self._packets:
            raise asyncio.QueueEmpty
        return self._take_first()

    async def join(self) -> None:
        """Return at once, like `Outbox.join`."""

    def end(self) -> None:
        """Close the WebSocket, or respond to the poll that waits: the session has ended."""
        self._is_ended = True
        self._resume()
        self.put_nowait(None)

    async def wait_for_handlers(self) -> None:
        """Return once fewer than `MAX_UNFINISHED_EVENTS` events have handlers that run, or the
        session has ended."""
        while self._unfinished >= MAX_UNFINISHED_EVENTS and not self._is_ended:
            resumed = self._resumed = self._resumed or asyncio.Event()
            await resumed.wait()

    def _resume(self) -> None:
        super()._resume()
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            resumed.set()

    def _notify(self) -> None:
        if self._arrived is not None:
            self._arrived.set()


@in_forked_child
def _renew_lock() -> None:
    """In a forked child: the thread that held the lock does not exist."""
    PacketQueue._lock = native_rlock()
