"""The queue of packets for one client, and their way out.

python-engineio creates one queue per client. While the client polls, the packets wait in it for the
next poll. After the upgrade the same object sends them to the WebSocket, so no packet is lost or
overtaken between the two transports.
"""

from __future__ import annotations

import asyncio
import threading
import time
from queue import Empty
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ..engine.forks import in_forked_child
from ..engine.native_locks import native_rlock
from .packets import is_noop, noop

if TYPE_CHECKING:
    from .link import Link

MAX_UNFINISHED_EVENTS = 1024
"""Events of one client whose handlers have not returned; then nothing more is read from it."""


class Poll(Protocol):
    """A long poll that waits for packets without a thread."""

    def notify(self) -> None:
        """Respond soon. Called with the outbox locked; must not block."""


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
    """The packets for one client, and the link that they go to after the upgrade."""

    __slots__ = ("_packets", "_unfinished", "link")

    _lock: ClassVar = native_rlock()
    """One lock for all clients. It is held only to change a list of packets or a count."""

    def __init__(self) -> None:
        self.link: Link | None = None
        """The WebSocket that the packets go to; None while the client polls."""
        self._packets: list[Any] = []
        self._unfinished = 0

    def put_nowait(self, packet: Any) -> None:
        """Send a packet to the WebSocket, or queue it for the next poll."""
        link = self.link
        if link is None:
            with self._lock:
                link = self.link
                if link is None:
                    self._packets.append(packet)
                    self._notify()
        if link is not None:
            link.send(packet)

    def switch_to(self, link: Link) -> None:
        """Send the queued packets to the WebSocket, then each later one."""
        while True:
            with self._lock:
                packets, self._packets = self._packets, []
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

    def event_begins(self) -> None:
        """Count an event whose handler is going to run. At the limit, reading pauses."""
        with self._lock:
            self._unfinished += 1
            if self._unfinished >= MAX_UNFINISHED_EVENTS and self.link is not None:
                self.link.websocket.pause()

    def event_ends(self) -> None:
        """Count an event whose handler has returned."""
        with self._lock:
            self._unfinished -= 1
            if self._unfinished == MAX_UNFINISHED_EVENTS // 2:
                self._resume()

    def _resume(self) -> None:
        """Read from the client again."""
        if self.link is not None:
            self.link.websocket.resume()


class Outbox(PacketQueue):
    """Replaces the `queue.Queue` of an Engine.IO socket. None in it ends the connection."""

    __slots__ = ("_arrived", "_poll")

    def __init__(self) -> None:
        super().__init__()
        self._poll: Poll | None = None
        self._arrived: threading.Event | None = None

    @property
    def has_poll(self) -> bool:
        """Whether a poll waits for packets."""
        return self._poll is not None

    # The methods of a queue

    def put(self, packet: Any, block: bool = True, timeout: float | None = None) -> None:  # noqa: ARG002
        self.put_nowait(packet)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Return the next packet. Raises `queue.Empty` if there is none in time, `MustWait` if the
        request should wait without its thread."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._lock:
                if self._packets:
                    return self._packets.pop(0)
                if not block:
                    raise Empty
                if may_park.value:
                    raise MustWait(self)
                arrived = self._arrived = self._arrived or threading.Event()
            if not arrived.wait(None if end is None else end - time.monotonic()):
                raise Empty

    def join(self) -> None:
        """Return at once. A WebSocket has each packet already; the library would wait for the
        next poll of any other client, which may never come."""

    # Long polls

    def wait_for(self, poll: Poll) -> None:
        """Notify `poll` once there are packets; now if there are some."""
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
            packets, self._packets = self._packets, []
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

    def __init__(self) -> None:
        super().__init__()
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
            packet = self._packets.pop(0)
            return noop() if packet is None else packet
        finally:
            self._arrived = None

    def get_nowait(self) -> Any:
        """Return the next packet. Raises `asyncio.QueueEmpty` if there is none."""
        if not self._packets:
            raise asyncio.QueueEmpty
        return self._packets.pop(0)

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
