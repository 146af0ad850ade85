"""Runs the event handlers of a synchronous server in a bounded number of threads.

python-engineio starts a thread for each event. Here an event waits for a thread of the pool. Under
gevent, each event has a greenlet, as in python-engineio.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any
from weakref import WeakSet

from ..engine.forks import in_forked_child
from .outbox import PacketQueue

EVENT_TARGETS = {
    "_handle_event_internal": "socketio.",
    "run_handler": "engineio.",
    "run_async_handler": "engineio.",
    "run_sync_handler": "engineio.",
}
"""The name and the package of the functions that python-socketio and python-engineio run in a new
thread or task for each event."""


def outbox_of(eio: Any, target: Any, args: tuple[Any, ...]) -> PacketQueue | None:
    """Return the outbox of the client whose event `target` handles; None if it has left."""
    if args:  # server, sid, eio_sid, …
        sid = args[2]
    else:  # a function of python-engineio, which has its arguments in its closure
        cells = dict(zip(target.__code__.co_freevars, target.__closure__, strict=True))
        sid = cells["args"].cell_contents[0]
    session = eio.sockets.get(sid)
    outbox: PacketQueue | None = session.queue if session is not None else None
    return outbox


def session_of(eio: Any, outbox: PacketQueue) -> Any:
    """Return the session with this outbox; None if it has ended. Looks at all sessions."""
    sessions = (session for session in list(eio.sockets.values()) if session.queue is outbox)
    return next(sessions, None)


def is_event(target: Any) -> bool:
    """Whether a background task handles one event of a client."""
    package = EVENT_TARGETS.get(getattr(target, "__name__", ""))
    return package is not None and str(target.__module__).startswith(package)


class EventTask:
    """Handles one event. Behaves like the `threading.Thread` that python-engineio would start."""

    def __init__(
        self,
        call: Callable[[], object],
        outbox: PacketQueue | None,
        run: Callable[[EventTask], object],
    ) -> None:
        self._call = call
        self._outbox = outbox
        self._run = run
        self._weight = 0
        self._done = threading.Lock()

    @property
    def is_of_websocket(self) -> bool:
        """Whether the client has a WebSocket; else it polls, or has left."""
        return self._outbox is not None and self._outbox.link is not None

    def start(self) -> None:
        self._done.acquire()
        if self._outbox is not None:
            self._weight = self._outbox.event_begins()
        self._run(self)

    def join(self, timeout: float | None = None) -> None:
        """Wait until the handler has returned, at most `timeout` seconds (None: no limit)."""
        if self._done.acquire(timeout=-1 if timeout is None else timeout):
            self._done.release()

    def __call__(self) -> None:
        try:
            self._call()
        except BaseException as error:  # reported as a thread would report it
            kind, trace = type(error), error.__traceback__
            thread = threading.current_thread()
            threading.excepthook(threading.ExceptHookArgs((kind, error, trace, thread)))
        finally:
            if self._outbox is not None:
                self._outbox.event_ends(self._weight)
            self._done.release()


class HandlerThreads:
    """Up to `limit` daemon threads, which are started when they are needed."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.forget_after_fork()
        _pools.add(self)

    def forget_after_fork(self) -> None:
        """Forget the threads, which are in the parent process, and their tasks."""
        self._lock = threading.Lock()
        self._tasks: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._threads = 0
        self._spare = 0  # idle threads less waiting tasks

    def is_full(self) -> bool:
        """Whether more tasks wait than there may be threads."""
        return self._spare < -self._limit

    def run(self, task: Callable[[], object]) -> None:
        """Run `task` in a thread, once one is idle."""
        with self._lock:
            self._spare -= 1
            grows = self._spare < 0 and self._threads < self._limit
            if grows:
                self._threads += 1
                self._spare += 1
            name = f"socketio-handler-{self._threads}"
        self._tasks.put(task)
        if grows:
            self._start_thread(name)

    def _start_thread(self, name: str) -> None:
        try:
            threading.Thread(target=self._work, name=name, daemon=True).start()
        except (RuntimeError, MemoryError):  # too many threads, or no memory for its stack
            with self._lock:
                self._threads -= 1
                self._spare -= 1
                is_alone = not self._threads
            if is_alone:
                raise

    def _work(self) -> None:
        tasks = self._tasks
        while not sys.is_finalizing():
            tasks.get()()
            with self._lock:
                self._spare += 1


_pools: WeakSet[HandlerThreads] = WeakSet()


@in_forked_child
def _forget_threads() -> None:
    for pool in list(_pools):
        pool.forget_after_fork()
