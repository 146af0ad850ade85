"""Locks that real threads and greenlets may share.

Where gevent has patched `threading`, the threads of the application are greenlets of one thread,
but the bus of the rooms runs in a real thread beside them. A lock of gevent's does not wake a
greenlet when a real thread releases it. So there is one rule for each lock that both may take:
it is a native one, and it is held for a bounded moment in which nothing waits, logs or calls
the application, because a greenlet that were switched away there would stop its whole thread.
"""

from __future__ import annotations

import importlib
import sys
import threading
from typing import Any


def original(module: str, name: str) -> Any:
    """Returns what gevent has replaced in a module of the standard library, or would have."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("threading"):
        return monkey.get_original(module, name)
    return getattr(importlib.import_module(module), name)


def native_lock() -> threading.Lock:
    """Returns a lock for real threads and greenlets."""
    lock: threading.Lock = original("_thread", "allocate_lock")()
    return lock


def native_rlock() -> Any:
    """Returns a lock that its thread may take again; all greenlets of a thread are one owner."""
    return original("_thread", "RLock")()
