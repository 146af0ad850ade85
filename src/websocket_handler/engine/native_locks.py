"""Locks that real threads and greenlets may share.

If gevent has patched `threading`, the application's threads are greenlets of one thread, but the
bus of the rooms runs in a real thread. gevent's locks do not wake a greenlet when a real thread
releases them. So a lock that both may take is a native one. It is held only briefly, without
waiting, logging or calling the application: a greenlet that is switched away while it holds the
lock would block its whole thread.
"""

from __future__ import annotations

import importlib
import sys
import threading
from typing import Any


def original(module: str, name: str) -> Any:
    """Return the original object of a standard library module, which gevent may have replaced."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("threading"):
        return monkey.get_original(module, name)
    return getattr(importlib.import_module(module), name)


def native_lock() -> threading.Lock:
    """Return a lock for real threads and greenlets."""
    lock: threading.Lock = original("_thread", "allocate_lock")()
    return lock


def native_rlock() -> Any:
    """Return a reentrant lock for real threads; all greenlets of a thread are one owner."""
    return original("_thread", "RLock")()
