"""The two homes of the native engine: a thread of its own, or an event loop.

It is the same engine in both; only who waits for its one descriptor differs.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import socket
import sys
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Callable
from contextvars import Context
from functools import partial

from ..protocol.close_codes import CloseCode
from .channel import Channel
from .empty_context import in_empty_context
from .engine import EpollEngine
from .forks import engines
from .shutdown import ClosesAll, close_connections
from .stats import NoThread
from .transport import TransportConnection

logger = logging.getLogger("websocket_handler")

STANDBY_RETRY_S = 1.0
"""Seconds until the engine tries again to start a thread that could not be started."""

_own_thread = threading.local()

LOOP_END_TIMEOUT = 1.0
"""Seconds that the end of an event loop waits for the peers' close frames."""

TRANSPORT_END_ITERATIONS = 3
"""So many iterations a transport needs to close its socket; TLS has another one beneath."""


class Engine(ClosesAll, EpollEngine):
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
        self._max_threads = threads
        self._threads: list[threading.Thread] = []
        self._pool = threading.Condition()  # for what follows
        self._idle = 0
        self._has_watcher = False
        self._is_polled = False
        self._poll_timeout: float | None = None  # while no thread could be started
        self._has_warned = False
        self._next_attempt = 0.0  # at this time of the monotonic clock, in that case
        self._starting = threading.Lock()
        self._stopped = False
        self._greenlet: int | None = None  # where a greenlet takes the place of the threads
        self._process = os.getpid()
        self._is_inherited = False  # from the parent process
        self._has_entered = False  # the loop
        engines.add(self)
        if loop is not None:
            _call_in(loop, self._enter_loop, loop)

    @property
    def event_loop(self) -> asyncio.AbstractEventLoop | None:
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
        channel._attach_here(self, layer.descriptor, early, layer)
        if transport.is_closing():  # then it may have said so already, to the protocol before
            self.post(partial(channel._drop, "the connection was dropped"))

    def discard(self, sock: socket.socket) -> None:
        self._start()
        super().discard(sock)

    def stop(self, timeout: float | None = None) -> None:
        """Drop every connection and leave the home. `close_all` closes them with a close frame.

        Waits up to `timeout` seconds for a listener that is still running in the thread. From
        a listener, or any other callback of the engine: the iteration that calls it comes to its
        end first.
        """
        self._stopped = True
        if self._loop is not None:
            if not self._loop.is_closed():
                _call_in(self._loop, self._leave_loop, self._loop)
            return
        self.stop_watching()
        with self._pool:
            self._pool.notify_all()
            if not self._is_polled:  # else its thread closes the engine
                super().close()
        self.wake()
        if not self.is_own_thread():
            with self._pool:
                self._pool.wait_for(self._is_idle, timeout)

    def close(self) -> None:
        """As `stop`, without waiting for anything."""
        self.stop(timeout=0)

    def _is_idle(self) -> bool:
        return not (self._is_polled or self._has_watcher)

    def _start(self) -> None:
        if not self.try_to_start():
            raise RuntimeError("the engine is closed") if self._stopped else NoThread

    def try_to_start(self) -> bool:
        """Start the thread if there is none yet. Returns whether the engine can serve another
        connection: not once it was stopped, nor if there can be no thread, for now."""
        if self._stopped:
            return False
        self._reopen()
        if self._loop is None and not self._threads:
            with self._starting:
                if not self._threads:
                    self._is_polled = True
                    begin = self._poll_in_greenlet if is_gevent() else self._poll_and_watch
                    if not self._add_thread(begin):
                        self._is_polled = False
        return self._loop is not None or bool(self._threads)

    def _reopen(self) -> None:
        """In a forked child, once: the descriptors of before are the parent's."""
        if self._is_inherited:
            with self._starting:
                if self._is_inherited:
                    self.open()
                    self._is_inherited = False

    def forget_after_fork(self) -> None:
        """In a forked child: let go of what belongs to the parent, without a word to anyone.
        With threads, or in a loop that has not run yet, the engine begins anew when it is
        needed; a loop that has run is the parent's, and the engine over with it."""
        super().forget_after_fork()
        self._process = os.getpid()
        self._is_inherited = True
        self._threads = []
        self._pool = threading.Condition()
        self._idle = 0
        self._has_watcher = self._is_polled = False
        self._starting = threading.Lock()
        self._greenlet = None
        self._stopped = self._stopped or self._has_entered

    def may_wait(self) -> bool:
        """Whether the calling thread may wait for a peer: none that serves others may."""
        polls_an_engine = getattr(_own_thread, "polls_an_engine", False)
        return super().may_wait() and not polls_an_engine

    def is_own_thread(self) -> bool:
        """Whether the caller runs in the thread, or greenlet, that turns the engine."""
        return super().is_own_thread() and self._greenlet in (None, threading.get_ident())

    def _add_thread(self, target: Callable[..., None], *arguments: object) -> bool:
        """Returns whether it could be started."""
        name = f"websocket-engine-{len(self._threads) + 1}"
        thread = threading.Thread(target=target, args=arguments, name=name, daemon=True)
        self._threads.append(thread)
        try:
            thread.start()
        except (RuntimeError, MemoryError):  # too many threads, or no memory for its stack
            self._threads.remove(thread)
            return False
        return True

    def _add_standby(self) -> None:
        """Start a thread that takes over when the next listener blocks. The engine goes on if
        that cannot be, and tries again later."""
        if self._add_thread(self._poll_and_watch, False):
            self._poll_timeout = None
            return
        self._next_attempt = time.monotonic() + STANDBY_RETRY_S
        if self._poll_timeout is None:
            self._poll_timeout = STANDBY_RETRY_S
            self.ledger.count_exhausted()
            if not self._has_warned:  # peers may bring it about again and again
                self._has_warned = True
                logger.warning("no thread can be started: a listener that blocks delays everybody")

    def _look_for_standby(self) -> None:
        """Try again, unless there is one that was blocked and is back."""
        with self._pool:
            if self._has_watcher or self._idle:
                self._poll_timeout = None
            elif time.monotonic() >= self._next_attempt:
                self._add_standby()

    def _poll_and_watch(self, first: bool = True) -> None:
        """The life of a thread: it turns the engine, until a listener blocks it and another
        takes over; then it is among those that may take over next."""
        _own_thread.polls_an_engine = True
        process = self._process
        if first:
            self.adopt_thread()
            self._add_standby()
            self._turn()
        while self._is_serving(process) and self._wait_to_take_over():
            self._turn()

    def _is_serving(self, process: int) -> bool:
        """Whether a thread or greenlet of `process` has something to do: not in a forked child,
        where the listener has returned that forked."""
        return not self._stopped and self._process == process

    def _turn(self) -> None:
        still_ours = True
        while still_ours and not self._stopped:
            with contextlib.suppress(SystemExit, KeyboardInterrupt):  # a listener's, logged
                still_ours = self.poll(self._poll_timeout)
                if self._poll_timeout is not None and still_ours:
                    self._look_for_standby()
        if still_ours:
            self._end_turns()

    def _end_turns(self) -> None:
        """The engine was stopped."""
        super().close()
        with self._pool:
            self._is_polled = False
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
        took_over = self.watch_for_blocking()
        with self._pool:
            self._has_watcher = False
            if took_over and not self._idle:
                if len(self._threads) < self._max_threads:
                    self._add_standby()
                else:
                    logger.warning("%d listeners block; the next will be felt", self._max_threads)
                    self.ledger.count_exhausted()
            self._pool.notify_all()
        return took_over

    def _poll_in_greenlet(self) -> None:
        self.adopt_thread()
        self._greenlet = threading.get_ident()
        gevent = importlib.import_module("gevent")
        wait_read: Callable[[int], object] = importlib.import_module("gevent.socket").wait_read
        process = self._process
        while self._is_serving(process):
            try:
                wait_read(self.fileno())
                if self._is_serving(process):
                    self.poll(0)
            except KeyboardInterrupt as interrupt:  # Ctrl-C, which any greenlet may get
                gevent.get_hub().handle_system_error(KeyboardInterrupt, interrupt)
            except SystemExit:
                pass  # a listener's, logged
        if self._process == process:
            self._end_turns()

    def _enter_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._stopped:
            return
        self._reopen()
        self.adopt_thread()
        self._has_entered = True
        empty = Context()  # the loop would keep that of a request
        empty.run(lambda: loop.add_reader(self.fileno(), _Reader(self)))
        self._call_soon = partial(loop.call_soon, context=empty)
        self.wake()  # for what was posted before

    def _leave_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.fileno() >= 0:
            loop.remove_reader(self.fileno())
        super().close()

    def _loop_ended(self) -> None:
        """The loop was closed: its connections end, with 1001 as far as that can be sent now."""
        if self._stopped:
            return
        self._stopped = True
        self._call_soon = None
        self.adopt_thread()
        for channel in self.channels():
            channel._start_closing(CloseCode.GOING_AWAY, "")
        super().close()

    async def _end_with_loop(self) -> None:
        """The loop is about to be closed: close every connection with 1001, and wait a little
        for the answers, as at the end of a process."""
        if self._stopped:
            return
        done = asyncio.Event()
        close_connections(self, when_done=done.set)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(done.wait(), LOOP_END_TIMEOUT)
        self.stop()
        for _ in range(TRANSPORT_END_ITERATIONS):
            await asyncio.sleep(0)


class _Reader:
    """What an event loop calls when the engine has something to do, and how the engine learns
    of the loop's end: `asyncio.run` ends the asynchronous generators of its loop, and a loop
    that is closed lets go of its readers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._generator = _until_loop_ends(weakref.ref(engine))
        with contextlib.suppress(StopIteration):
            self._generator.__anext__().send(None)

    def __call__(self) -> None:
        self._engine.poll()

    def __del__(self) -> None:
        self._engine._loop_ended()
        with contextlib.suppress(StopIteration, StopAsyncIteration, RuntimeError):
            self._generator.aclose().send(None)


async def _until_loop_ends(engine: weakref.ref[Engine]) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        living = engine()
        if living is not None:
            await living._end_with_loop()


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
