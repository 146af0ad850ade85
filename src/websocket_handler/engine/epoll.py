"""The two homes of the native engine: a thread of its own, or an event loop.

It is the same engine in both; only who waits for its one descriptor differs.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import socket
import sys
import threading
from collections.abc import Callable

from .channel import Channel
from .engine import EpollEngine
from .transport import TransportConnection


class Engine(EpollEngine):
    """Serves WebSockets that were taken over from HTTP servers.

    Without `loop`, a background thread does it, started with the first connection; where
    gevent has patched threads, that is a greenlet. With an
    asyncio or uvloop `loop`, listeners run in that loop, and must not block it. For any
    other event loop see `fileno` and `poll`.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = loop
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._stopped = False
        self._greenlet: int | None = None  # where a greenlet takes the place of the thread
        if loop is not None:
            _call_in(loop, self._enter_loop, loop)

    @property
    def home_loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that the engine lives in, None for a thread of its own."""
        return self._loop

    @property
    def is_running(self) -> bool:
        """Whether anyone serves what is posted: a thread from the first connection on."""
        return not self._stopped and (self._loop is not None or self._thread is not None)

    def attach(self, channel: Channel, sock: socket.socket, early: bytes = b"") -> None:
        self._start()
        super().attach(channel, sock, early)

    def attach_transport(
        self, channel: Channel, transport: asyncio.Transport, early: bytes = b""
    ) -> None:
        """Give an asyncio transport to the engine, which lives in its loop; in that loop's
        thread. `early` was already read from it."""
        self._start()
        layer = TransportConnection(channel, transport)
        transport.set_protocol(layer)
        channel._enter(self, layer.descriptor, early, layer)

    def discard(self, sock: socket.socket) -> None:
        self._start()
        super().discard(sock)

    def stop(self, timeout: float | None = None) -> None:
        """Drop every connection and leave the home. See `close_all` for the polite way.

        Waits up to `timeout` seconds for a listener that is still running in the thread.
        """
        self._stopped = True
        if self._loop is not None:
            if not self._loop.is_closed():
                _call_in(self._loop, self._leave_loop, self._loop)
            return
        thread = self._thread
        if thread is not None and not self.is_own_thread():
            self.wake()
            thread.join(timeout)
            if thread.is_alive():
                return
        self.close()

    def _start(self) -> None:
        if self._stopped:
            raise RuntimeError("the engine is closed")
        if self._loop is not None or self._thread is not None:
            return
        with self._starting:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="websocket-engine", daemon=True)
                thread.start()
                self._thread = thread

    def is_own_thread(self) -> bool:
        """Whether the caller runs in the thread, or greenlet, that turns the engine."""
        return super().is_own_thread() and self._greenlet in (None, threading.get_ident())

    def _run(self) -> None:
        self.adopt_thread()
        wait_read = gevents_wait_read()
        if wait_read is not None:
            self._greenlet = threading.get_ident()
        while not self._stopped:
            with contextlib.suppress(SystemExit, KeyboardInterrupt):  # a listener's, logged
                if wait_read is None:
                    self.poll(None)
                else:
                    wait_read(self.fileno())
                    self.poll(0)

    def _enter_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        self.adopt_thread()
        loop.add_reader(self.fileno(), self.poll)
        self._call_soon = loop.call_soon

    def _leave_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.remove_reader(self.fileno())
        self.close()


def gevents_wait_read() -> Callable[[int], object] | None:
    """How a greenlet waits for a descriptor, where gevent has made threads greenlets."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("threading"):
        return None
    wait_read: Callable[[int], object] = importlib.import_module("gevent.socket").wait_read
    return wait_read


def _call_in(loop: asyncio.AbstractEventLoop, call: object, argument: object) -> None:
    """Call now if this is the loop's own thread, else as soon as the loop gets to it."""
    try:
        running: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if running is loop:
        call(argument)  # type: ignore[operator]
    else:
        loop.call_soon_threadsafe(call, argument)  # type: ignore[arg-type]
