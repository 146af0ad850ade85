"""The history of local:// rooms, in an SQLite database that all processes share.

SQLite runs in a thread of its own: it waits for the other processes' transactions, and the bus must
receive meanwhile. A failure (a full disk, a lock, a damaged file) raises `HistoryFailed`. Further
calls then fail at once, and one call per second tries again.

A connection to SQLite does not survive a fork. It is closed before each fork, and opened again when
it is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeVar
from weakref import WeakSet

from ..bus.settings import History
from ..bus.thread import BusThread
from ..engine.native_locks import native_lock
from .broker import Entry, Offset, Page, Tip
from .local_database import Database, DatabaseError, Stored

__all__ = ["HistoryFailed", "LocalHistory", "Stored"]

RETRY_S = 1.0
"""Seconds after a failure until the next attempt."""

SWEEP_S = 60.0
"""Seconds between two removals of the messages and rooms that nobody writes to any more."""

LOCK_TIMEOUT_S, SHORT_LOCK_TIMEOUT_S = 2.0, 0.02
"""Seconds to wait for the transaction of another process; the second one after a failure."""

Result = TypeVar("Result")


class HistoryFailed(Exception):
    """The history cannot be read or written; the text is a readable reason."""


class LocalHistory:
    """The history, for the bus's event loop."""

    def __init__(self, path: Path, limits: History) -> None:
        self._path = path
        self._limits = limits
        self._lock = native_lock()  # guards the database; held during each call
        self._database: Database | None = None
        self._reason = ""
        self._retry_at = 0.0
        self._swept_at = time.monotonic()
        self._ended = asyncio.Event()
        self._thread = BusThread("websocket-handler history")
        self._thread.start(self._serve)
        _all_rooms.add(self)

    async def append(self, entries: Sequence[Entry]) -> list[Stored]:
        """Store the entries that are not stored yet, in one transaction, and return these."""
        return await self._run(lambda database: database.append(entries))

    async def tips(self, channels: Sequence[str]) -> list[Tip]:
        return await self._run(lambda database: database.tips(channels))

    async def read(self, channel: str, after: Offset, count: int) -> Page:
        return await self._run(lambda database: database.read(channel, after, count))

    async def last_of(self, node: bytes, channels: Collection[str]) -> list[Stored]:
        """Return the last message that a process has stored in each of the channels."""
        wanted = set(channels)
        return await self._run(lambda database: database.last_of(node, wanted))

    async def sweep(self) -> None:
        """Remove messages and rooms that have expired, if it is time for that."""
        if time.monotonic() - self._swept_at > SWEEP_S:
            self._swept_at = time.monotonic()
            await self._run(Database.sweep)

    def close(self) -> None:
        """Close the database. Returns at once; the thread ends after its current call."""
        _all_rooms.discard(self)
        self._thread.post(self._close_database)
        self._thread.post(self._ended.set)

    # In the thread of the history

    async def _serve(self) -> None:
        await self._ended.wait()

    async def _run(self, work: Callable[[Database], Result]) -> Result:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Result] = loop.create_future()

        def settle(result: Result | None, error: Exception | None) -> None:
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)  # type: ignore[arg-type]

        def run() -> None:
            result, error = None, None
            try:
                result = self._work(work)
            except Exception as raised:
                error = raised
            with contextlib.suppress(RuntimeError):  # the event loop is closed
                loop.call_soon_threadsafe(settle, result, error)

        if not self._thread.post(run):
            raise HistoryFailed("the history is closed")
        return await answer

    def _work(self, work: Callable[[Database], Result]) -> Result:
        with self._lock:
            if time.monotonic() < self._retry_at:
                raise HistoryFailed(self._reason)
            try:
                if self._database is None or not self._database.is_in_place():
                    self._close()
                    timeout = SHORT_LOCK_TIMEOUT_S if self._reason else LOCK_TIMEOUT_S
                    self._database = Database(self._path, self._limits, timeout)
                result = work(self._database)
            except DatabaseError as error:
                self._close()
                self._reason, self._retry_at = str(error), time.monotonic() + RETRY_S
                raise HistoryFailed(self._reason) from error
            if self._reason:
                self._reason = ""
                self._database.set_lock_timeout(LOCK_TIMEOUT_S)
            return result

    def _close_database(self) -> None:
        with self._lock:
            self._close()

    def _close(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.close()

    # Forks

    def before_fork(self) -> None:
        """Wait for the current call, and close the database. Other calls wait for the fork."""
        self._lock.acquire()
        self._close()

    def after_fork_in_parent(self) -> None:
        self._lock.release()

    def after_fork_in_child(self) -> None:
        self._thread.abandon()


_all_rooms: WeakSet[LocalHistory] = WeakSet()
_forking: list[LocalHistory] = []
"""The histories that the thread that forks has locked."""
_fork_lock = native_lock()


def _before_fork() -> None:
    _fork_lock.acquire()
    for history in list(_all_rooms):
        history.before_fork()
        _forking.append(history)


def _after_fork_in_parent() -> None:
    for history in _forking:
        history.after_fork_in_parent()
    _forking.clear()
    _fork_lock.release()


def _after_fork_in_child() -> None:
    global _fork_lock
    for history in _forking:
        history.after_fork_in_child()
        _abandoned.append(history)
    _forking.clear()
    _all_rooms.clear()
    _fork_lock = native_lock()


_abandoned: list[LocalHistory] = []
"""Objects of the parent process, kept in a forked child so that nothing of them is closed."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
