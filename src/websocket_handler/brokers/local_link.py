"""A connection to a sibling process, on which this process sends.

A sibling that does not read delays nobody: its bytes are queued, and over a limit its connection is
closed. It notices that, and starts again as a new process does.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable


class Link:
    """Sends to one sibling. Runs in the bus's thread."""

    def __init__(
        self, sock: socket.socket, max_queued: int, on_overflow: Callable[[], object]
    ) -> None:
        self.socket: socket.socket = sock
        self.queued: int = 0
        """Bytes that the socket has not taken yet."""
        self.is_stalled: bool = False
        """The sibling has read nothing for a while, so that nobody waits for it."""
        self.is_closed: bool = False
        self.progress: asyncio.Event | None = None
        """Set when the socket has taken bytes; None while nobody waits for that."""
        self._max_queued = max_queued
        self._on_overflow = on_overflow
        self._queue: deque[memoryview] = deque()
        self._loop = asyncio.get_running_loop()

    def send(self, data: bytes) -> None:
        """Send bytes, or queue them behind those that the socket has not taken yet."""
        if self.is_closed:
            return
        view = memoryview(data)
        if not self._queue:
            view = view[self._try_to_send(view) :]
            if not view or self.is_closed:
                return
            self._loop.add_writer(self.socket, self._on_writable)
        self._queue.append(view)
        self.queued += len(view)
        if self.queued > self._max_queued and len(self._queue) > 1:
            self.close()
            self._on_overflow()

    def _try_to_send(self, view: memoryview) -> int:
        """Return how many bytes the socket has taken."""
        try:
            return self.socket.send(view)
        except BlockingIOError:
            return 0
        except OSError:  # the sibling has ended
            self.close()
            return 0

    def _on_writable(self) -> None:
        while self._queue:
            view = self._queue[0]
            taken = self._try_to_send(view)
            if not taken:
                return
            self.queued -= taken
            self.is_stalled = False
            if self.progress is not None:
                self.progress.set()
            if taken < len(view):
                self._queue[0] = view[taken:]
                return
            self._queue.popleft()
        self._loop.remove_writer(self.socket)

    async def until_read(self, limit: int, timeout: float) -> None:
        """Wait until at most `limit` bytes are queued, for up to `timeout` seconds.

        If the sibling reads nothing in that time, the link is stalled.
        """
        self.progress = asyncio.Event()
        end = self._loop.time() + timeout
        has_progressed = False
        while self.queued > limit:
            self.progress.clear()
            try:
                await asyncio.wait_for(self.progress.wait(), end - self._loop.time())
            except (asyncio.TimeoutError, TimeoutError):
                self.is_stalled = not has_progressed
                break
            has_progressed = True
        self.progress = None

    def has_hung_up(self) -> bool:
        """Whether the sibling has closed this connection, as its end does."""
        if self.is_closed:
            return True
        try:
            return not self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        if self._queue:
            self._loop.remove_writer(self.socket)
        self._queue.clear()
        self.queued = 0
        self.socket.close()
        if self.progress is not None:
            self.progress.set()
