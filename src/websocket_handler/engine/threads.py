"""Runs the native engine in background threads, in a gevent greenlet, or in an event loop.

The engine is the same in all of them; they differ in how its one descriptor is waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from contextvars import Context
from functools import partial

from ..protocol.close_codes import CloseCode
from .channel import Channel
from .empty_context import in_empty_context
from .engine import EpollEngine
from .forks import engines
from .interruptions import interrupt_main_greenlet, is_kill, log_intrusion
from .loop_end import LoopEndWatch
from .running_loop import is_gevent
from .shutdown import ClosesAll, close_or_abort
from .stats import CannotStart
from .transport import TransportConnection

logger: logging.Logger = logging.getLogger("websocket_handler")

STANDBY_RETRY_S = 1.0
"""Seconds until the engine tries again to start a thread that could not be started."""

_own_thread = threading.local()


class Engine(ClosesAll, EpollEngine):
    """Serves WebSockets that were taken over from HTTP servers.

    Without `loop`, the engine runs in a background thread, which the first connection starts. If
    a listener blocks it for some milliseconds, another thread takes over, and only the listener's
    own connection waits. If gevent has patched `threading`, the engine runs in one greenlet.

    With an asyncio or uvloop `loop`, the engine runs in that loop; listeners must not block it.
    Any other event loop can run an `EpollEngine` through `fileno` and `poll`.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None, threads: int = 32) -> None:
        """`threads` is the maximum number of background threads (default 32): one fewer listeners
        may block at the same time without delaying other connections."""
        self._loop = loop
        self._max_threads = threads
        self._threads: list[threading.Thread] = []
        self._pool = threading.Condition()  # protects the next three attributes
        self._idle = 0
        self._has_watcher = False
        self._is_polled = False
        self._poll_timeout: float | None = None  # seconds, while a standby thread is missing
        self._has_warned = False
        self._next_attempt = 0.0  # the monotonic time of the next attempt, in that case
        self._start_lock = threading.Lock()
        self._stopped = False
        self._greenlet: int | None = None  # the identifier of the greenlet, if it runs in one
        self._process = os.getpid()
        self._is_inherited = False  # by a forked child, which has not reopened it yet
        self._has_entered = False  # `_enter_loop` has run
        engines.add(self)
        if loop is not None:
            _call_in(loop, self._enter_loop, loop)

    @property
    def event_loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that the engine runs in; None if it runs in a background thread."""
        return self._loop

    @property
    def is_running(self) -> bool:
        """Whether posted calls are made: in a loop always, in a thread after the first connection;
        no longer after `stop()`."""
        return not self._stopped and (self._loop is not None or bool(self._threads))

    def _attach(self, channel: Channel, sock: socket.socket, early: bytes = b"") -> None:
        self._start()
        super()._attach(channel, sock, early)

    @in_empty_context
    def _attach_transport(
        self, channel: Channel, transport: asyncio.Transport, early: bytes = b""
    ) -> None:
        """Attach an asyncio transport, with the `early` bytes already read from it.

        The engine must run in the transport's loop, and this must be called in its thread.
        """
        self._start()
        layer = TransportConnection(channel, transport)
        transport.set_protocol(layer)
        channel._attach_here(self, layer.descriptor, early, layer)
        if transport.is_closing():  # the former protocol may have received `connection_lost`
            self._post(partial(channel._drop, "the connection was dropped"))

    def _call_later(self, delay: float, call: Callable[[], object]) -> None:
        self._start()
        super()._call_later(delay, call)

    def _discard(self, sock: socket.socket) -> None:
        self._start()
        super()._discard(sock)

    def stop(self, timeout: float | None = None) -> None:
        """Drop every connection and stop the engine. Thread-safe. `close_all` closes gracefully.

        Waits up to `timeout` seconds (None: no limit) for the engine's thread, in which a listener
        may still run. Does not wait if the engine runs in an event loop, nor in a listener or
        another callback of the engine: there, the iteration is completed first.
        """
        self._stopped = True
        if self._loop is not None:
            if not self._loop.is_closed():
                _call_in(self._loop, self._leave_loop, self._loop)
            return
        self._stop_watching()
        with self._pool:
            self._pool.notify_all()
            if not self._is_polled:  # else the engine's thread closes it
                super().close()
        self.wake()
        if not self._is_own_thread():
            with self._pool:
                self._pool.wait_for(self._is_idle, timeout)

    def close(self) -> None:
        """Like `stop()`, without waiting."""
        self.stop(timeout=0)

    def _is_idle(self) -> bool:
        return not (self._is_polled or self._has_watcher)

    def _start(self) -> None:
        if not self._try_to_start():
            raise RuntimeError("the engine is closed") if self._stopped else CannotStart

    def _try_to_start(self) -> bool:
        """Start the thread if there is none. Returns whether the engine can serve another
        connection: False if it was stopped, or if the system has no threads or descriptors left."""
        if self._stopped:
            return False
        try:
            self._reopen()
        except OSError:
            return False
        if self._loop is None and not self._threads:
            with self._start_lock:
                if not self._threads:
                    self._is_polled = True
                    begin = self._poll_in_greenlet if is_gevent() else self._poll_and_watch
                    if not self._add_thread(begin):
                        self._is_polled = False
        return self._loop is not None or bool(self._threads)

    def _reopen(self) -> None:
        """In a forked child, once: open new descriptors in place of the parent's."""
        if self._is_inherited:
            with self._start_lock:
                if self._is_inherited:
                    self.open()
                    self._is_inherited = False

    def forget_after_fork(self) -> None:
        """In a forked child: forget the parent's connections, without calls or messages.

        An engine with threads, or in a loop that has not run yet, starts again when it is needed.
        A loop that has run belongs to the parent: its engine is stopped here.
        """
        super().forget_after_fork()
        self._process = os.getpid()
        self._is_inherited = True
        self._threads = []
        self._pool = threading.Condition()
        self._idle = 0
        self._has_watcher = self._is_polled = False
        self._start_lock = threading.Lock()
        self._greenlet = None
        self._stopped = self._stopped or self._has_entered

    def _may_wait(self) -> bool:
        """Whether the calling thread may block: not that of any engine, nor of a running loop."""
        polls_an_engine = getattr(_own_thread, "polls_an_engine", False)
        return super()._may_wait() and not polls_an_engine

    def _is_own_thread(self) -> bool:
        """Whether the calling thread, or greenlet, is the engine's."""
        return super()._is_own_thread() and self._greenlet in (None, threading.get_ident())

    def _add_thread(self, target: Callable[..., None], *arguments: object) -> bool:
        """Start a thread. Returns False if the system cannot."""
        thread = None
        try:
            name = f"websocket-engine-{len(self._threads) + 1}"
            thread = threading.Thread(target=target, args=arguments, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()
        except (RuntimeError, MemoryError):  # too many threads, or no memory for one
            if thread in self._threads:
                self._threads.remove(thread)
            return False
        return True

    def _add_standby(self) -> None:
        """Start a thread that takes over when the next listener blocks. If it cannot be started,
        the engine continues without it and tries again later."""
        if self._add_thread(self._poll_and_watch, False):
            self._poll_timeout = None
            return
        self._next_attempt = time.monotonic() + STANDBY_RETRY_S
        if self._poll_timeout is None:
            self._poll_timeout = STANDBY_RETRY_S
            self._ledger.count_exhausted()
            # At the interpreter's end, Python 3.12 starts no thread any more.
            is_ending = not threading.main_thread().is_alive()
            if not self._has_warned and not is_ending:  # once: peers may cause this repeatedly
                self._has_warned = True
                with contextlib.suppress(Exception):  # of logging: this thread has to poll
                    logger.warning(
                        "no thread can be started: a listener that blocks now delays all "
                        "connections"
                    )

    def _look_for_standby(self) -> None:
        """Try to start a standby thread again, unless a blocked thread has returned meanwhile."""
        with self._pool:
            if self._has_watcher or self._idle:
                self._poll_timeout = None
            elif time.monotonic() >= self._next_attempt:
                self._add_standby()

    def _poll_and_watch(self, first: bool = True) -> None:
        """Run a thread: it polls the engine until a listener blocks it and another thread takes
        over; then it waits to take over itself."""
        _own_thread.polls_an_engine = True
        process = self._process
        if first:
            self._adopt_thread()
            self._add_standby()
            self._poll_while_own()
        while self._is_serving(process) and self._wait_to_take_over():
            self._poll_while_own()

    def _is_serving(self, process: int) -> bool:
        """Whether a thread or greenlet of `process` continues: not after `stop()`, nor in a forked
        child, where a listener that has forked returns."""
        return not self._stopped and self._process == process

    def _poll_while_own(self) -> None:
        still_ours = True
        while still_ours and not self._stopped:
            try:
                still_ours = self.poll(self._poll_timeout)
                if self._poll_timeout is not None and still_ours:
                    self._look_for_standby()
            except (SystemExit, KeyboardInterrupt):
                pass  # of a listener, logged
            except BaseException as error:  # thrown into this thread
                log_intrusion(error)
        if still_ours:
            self._close_stopped()

    def _close_stopped(self) -> None:
        """Close the engine, which was stopped."""
        super().close()
        with self._pool:
            self._is_polled = False
            self._pool.notify_all()

    def _wait_to_take_over(self) -> bool:
        """Watch the engine's thread if no other thread does, else wait for that role. Returns True
        if this thread has taken over, False if the engine was stopped."""
        with self._pool:
            self._idle += 1
            self._pool.wait_for(lambda: self._stopped or not self._has_watcher)
            self._idle -= 1
            if self._stopped:
                return False
            self._has_watcher = True
        took_over = self._watch_for_blocking()
        with self._pool:
            self._has_watcher = False
            if took_over and not self._idle:
                if len(self._threads) < self._max_threads:
                    self._add_standby()
                else:
                    self._threads_exhausted()
            self._pool.notify_all()
        return took_over

    def _threads_exhausted(self) -> None:
        """Count that all threads are in use; log the first, second, fourth, eighth … time."""
        times = self._ledger.count_exhausted()
        if times & (times - 1) == 0:
            with contextlib.suppress(Exception):  # of logging: this thread has to poll
                logger.warning(
                    "the last of %d engine threads is in use (time %d): the next listener that "
                    "blocks delays all connections",
                    self._max_threads,
                    times,
                )

    def _poll_in_greenlet(self) -> None:
        self._adopt_thread()
        self._greenlet = threading.get_ident()
        wait_read: Callable[[int], object] = importlib.import_module("gevent.socket").wait_read
        process = self._process
        while self._is_serving(process):
            try:
                wait_read(self.fileno())
                if self._is_serving(process):
                    self.poll(0)
            except KeyboardInterrupt as interrupt:
                interrupt_main_greenlet(interrupt)
            except SystemExit:
                pass  # of a listener, logged
            except BaseException as error:  # thrown into this greenlet
                if is_kill(error) and self._move_to_another_greenlet():
                    return
                log_intrusion(error)
        if self._process == process:
            self._close_stopped()

    def _move_to_another_greenlet(self) -> bool:
        """Have another greenlet poll the engine: this one was killed. Returns whether it does."""
        self._threads.clear()
        return self._add_thread(self._poll_in_greenlet)

    def _enter_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._stopped:
            return
        self._reopen()
        self._adopt_thread()
        self._has_entered = True
        empty = Context()  # else the loop would keep the context of a request
        empty.run(lambda: loop.add_reader(self.fileno(), _Reader(self)))
        self._call_soon = partial(loop.call_soon, context=empty)
        self.wake()  # for calls that were posted before

    def _leave_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.fileno() >= 0:
            loop.remove_reader(self.fileno())
        super().close()

    def _loop_ended(self) -> None:
        """The loop was closed: close every connection with 1001, if that can be sent at once."""
        if self._stopped:
            return
        self._stopped = True
        self._call_soon = None
        self._adopt_thread()
        for channel in self._channels():
            close_or_abort(channel, CloseCode.GOING_AWAY, "")
        super().close()


class _Reader:
    """The callback of the event loop for the engine's descriptor. It also detects the loop's end:
    `asyncio.run` closes the asynchronous generators of its loop, and a closed loop drops its
    readers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._loop_end = LoopEndWatch(engine)

    def __call__(self) -> None:
        self._engine.poll()

    def __del__(self) -> None:
        self._engine._loop_ended()


def _call_in(loop: asyncio.AbstractEventLoop, call: object, argument: object) -> None:
    """Call now in the loop's own thread; from another thread, post the call to the loop."""
    try:
        running: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if running is loop:
        call(argument)  # type: ignore[operator]
    else:
        loop.call_soon_threadsafe(call, argument)  # type: ignore[arg-type]
