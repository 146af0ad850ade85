"""The two homes of the native engine: a thread of its own, or an event loop.

It is the same engine in both; only who waits for its one descriptor differs.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import socket
import sys
import threading
from collections.abc import Callable
from contextvars import Context
from functools import partial

from .channel import Channel
from .empty_context import in_empty_context
from .engine import EpollEngine
from .transport import TransportConnection

logger = logging.getLogger("websocket_handler")

_own_thread = threading.local()


class Engine(EpollEngine):
    """Serves WebSockets that were taken over from HTTP servers.

    Without `loop`, a background thread does it, started with the first connection. If a
    listener blocks that for some milliseconds, another thread takes over, and only the
    listener's own connection waits. Where gevent has patched threads, it is one greenlet.
    With an asyncio or uvloop `loop`, listeners run in that loop, and must not block it. For
    any other event loop see `fileno` and `poll`.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None, threads: int = 32) -> None:
        """`threads` are the most a home of its own may have: as many listeners but one may
        block at the same time without anyone else noticing."""
        self._loop = loop
        self._most_threads = threads
        self._threads: list[threading.Thread] = []
        self._pool = threading.Condition()  # for what follows
        self._idle = 0
        self._has_watcher = False
        self._is_turned = False
        self._starting = threading.Lock()
        self._stopped = False
        self._greenlet: int | None = None  # where a greenlet takes the place of the threads
        if loop is not None:
            _call_in(loop, self._enter_loop, loop)

    @property
    def home_loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that the engine lives in, None for a thread of its own."""
        return self._loop

    @property
    def is_running(self) -> bool:
        """Whether anyone serves what is posted: a thread from the first connection on."""
        return not self._stopped and (self._loop is not None or bool(self._threads))

    def attach(self, channel: Channel, sock: socket.socket, early: bytes = b"") -> None:
        self._start()
        super().attach(channel, sock, early)

    @in_empty_context
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
        self.end_watch()
        with self._pool:
            self._pool.notify_all()
        if self._threads and not self.is_own_thread():
            self.wake()
            with self._pool:
                if not self._pool.wait_for(self._is_left_alone, timeout):
                    return
        self.close()

    def _is_left_alone(self) -> bool:
        return not (self._is_turned or self._has_watcher)

    def _start(self) -> None:
        if self._stopped:
            raise RuntimeError("the engine is closed")
        if self._loop is not None or self._threads:
            return
        with self._starting:
            if not self._threads:
                self._is_turned = True
                self._add_thread(self._turn_in_greenlet if is_gevent() else self._turn_and_watch)

    def may_wait(self) -> bool:
        """Whether the calling thread may wait for a peer: none that serves others may."""
        turns_an_engine = getattr(_own_thread, "turns_an_engine", False)
        return super().may_wait() and not turns_an_engine

    def is_own_thread(self) -> bool:
        """Whether the caller runs in the thread, or greenlet, that turns the engine."""
        return super().is_own_thread() and self._greenlet in (None, threading.get_ident())

    def _add_thread(self, target: Callable[..., None], *arguments: object) -> None:
        name = f"websocket-engine-{len(self._threads) + 1}"
        thread = threading.Thread(target=target, args=arguments, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _turn_and_watch(self, first: bool = True) -> None:
        """The life of a thread: it turns the engine, until a listener blocks it and another
        takes over; then it is among those that may take over next."""
        _own_thread.turns_an_engine = True
        if first:
            self.adopt_thread()
            self._add_thread(self._turn_and_watch, False)
            self._turn()
        while not self._stopped and self._wait_to_take_over():
            self._turn()

    def _turn(self) -> None:
        still_ours = True
        while still_ours and not self._stopped:
            with contextlib.suppress(SystemExit, KeyboardInterrupt):  # a listener's, logged
                still_ours = self.poll(None)
        if still_ours:
            with self._pool:
                self._is_turned = False
                self._pool.notify_all()

    def _wait_to_take_over(self) -> bool:
        """One thread watches, the others wait to be the next."""
        with self._pool:
            self._idle += 1
            self._pool.wait_for(lambda: self._stopped or not self._has_watcher)
            self._idle -= 1
            if self._stopped:
                return False
            self._has_watcher = True
        took_over = self.watch_turns()
        with self._pool:
            self._has_watcher = False
            if took_over and not self._idle:
                if len(self._threads) < self._most_threads:
                    self._add_thread(self._turn_and_watch, False)
                else:
                    logger.warning("%d listeners block; the next will be felt", self._most_threads)
                    self.ledger.count_exhausted()
            self._pool.notify_all()
        return took_over

    def _turn_in_greenlet(self) -> None:
        self.adopt_thread()
        self._greenlet = threading.get_ident()
        gevent = importlib.import_module("gevent")
        wait_read: Callable[[int], object] = importlib.import_module("gevent.socket").wait_read
        while not self._stopped:
            try:
                wait_read(self.fileno())
                self.poll(0)
            except KeyboardInterrupt as interrupt:  # Ctrl-C, which any greenlet may get
                gevent.get_hub().handle_system_error(KeyboardInterrupt, interrupt)
            except SystemExit:
                pass  # a listener's, logged
        with self._pool:
            self._is_turned = False
            self._pool.notify_all()

    def _enter_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        self.adopt_thread()
        empty = Context()  # the loop would keep that of a request
        empty.run(lambda: loop.add_reader(self.fileno(), self.poll))
        self._call_soon = partial(loop.call_soon, context=empty)

    def _leave_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.remove_reader(self.fileno())
        self.close()


def is_gevent() -> bool:
    """Whether gevent has made greenlets of threads."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


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
