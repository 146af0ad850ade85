"""Manages Django's database connections around listeners as Django does around views.

At the start and the end of a request, Django closes database connections that have failed or are
too old; a listener runs outside of a request. So `close_old_connections` is called before and
after each listener, in the thread whose connections it uses: its own thread for a plain listener,
the thread of `sync_to_async` for an `async def` listener.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

_opened: WeakSet[Any] | None = None
"""The database connections that were opened in any thread; None before they are recorded."""

_is_thread_known = False
"""Whether the connections that the thread of `sync_to_async` had opened before are recorded."""

_watching_lock = threading.Lock()


def database_connections() -> Callable[[], DatabaseConnections] | None:
    """Return the context manager to enter around listeners; None if Django is not in use."""
    if "django.db" not in sys.modules or not sys.modules["django.conf"].settings.configured:
        return None
    _watch()
    return DatabaseConnections


class DatabaseConnections:
    """A context manager around one call of a listener, plain or `async def`."""

    def __enter__(self) -> None:
        _close_old()

    def __exit__(self, *_: object) -> None:
        _close_old()

    async def __aenter__(self) -> None:
        await _close_old_in_thread()

    async def __aexit__(self, *_: object) -> None:
        await _close_old_in_thread()


def _close_old() -> None:
    importlib.import_module("django.db").close_old_connections()


async def _close_old_in_thread() -> None:
    """Close old connections in the thread in which `sync_to_async` runs the ORM. Does not switch to
    that thread while no connection is open."""
    global _is_thread_known
    if _is_thread_known and all(each.connection is None for each in list(_opened or ())):
        return
    _is_thread_known = True
    sync_to_async: Any = importlib.import_module("asgiref.sync").sync_to_async
    await sync_to_async(_close_old_and_note_others, thread_sensitive=True)()


def _close_old_and_note_others() -> None:
    _close_old()
    for connection in importlib.import_module("django.db").connections.all(initialized_only=True):
        _note_opened(connection)


def _watch() -> None:
    global _opened
    with _watching_lock:
        if _opened is None:
            _opened = WeakSet()
            signals: Any = importlib.import_module("django.db.backends.signals")
            signals.connection_created.connect(_note_opened, weak=False)


def _note_opened(connection: Any, **_: object) -> None:
    assert _opened is not None
    _opened.add(connection)
