"""Whether the caller runs in an event loop, also where gevent has made greenlets of threads."""

from __future__ import annotations

import asyncio
import sys
import threading


def is_gevent() -> bool:
    """Whether gevent has made greenlets of threads."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def is_in_event_loop() -> bool:
    """Whether the caller runs in an event loop of asyncio, and would stop it by waiting.

    asyncio keeps the running loop of each thread. Under gevent a loop runs in one greenlet, and
    the other greenlets of the thread may wait.
    """
    loop = asyncio._get_running_loop()
    if loop is None or not is_gevent():
        return loop is not None
    return getattr(loop, "_thread_id", None) == threading.get_ident()
