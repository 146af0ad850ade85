"""A lock around the methods of python-socketio that change its clients and rooms.

They delete empty dictionaries and lists, and are not thread-safe: if two clients connect at the
same time, one may fail with `KeyError` and never be connected.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

METHODS = (
    "pre_connect",
    "connect",
    "pre_disconnect",
    "basic_disconnect",
    "basic_enter_room",
    "basic_leave_room",
    "basic_close_room",
)


def lock_clients(manager: Any) -> None:
    """Make the methods of a `socketio.Manager` that change its clients exclude each other. None of
    them waits or calls the application."""
    lock = threading.RLock()
    for name in filter(partial(hasattr, manager), METHODS):  # old versions lack `pre_connect`
        setattr(manager, name, _locked(getattr(manager, name), lock))


def _locked(method: Callable[..., Any], lock: Any) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*arguments: Any, **options: Any) -> Any:
        with lock:
            return method(*arguments, **options)

    return call
