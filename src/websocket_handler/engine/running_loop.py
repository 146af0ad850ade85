"""Whether the caller runs in an event loop, also where gevent has made greenlets of threads; and
errors that are raised in an engine's thread or greenlet, but not by the engine."""

from __future__ import annotations

import asyncio
import importlib
import logging
import sys
import threading

logger: logging.Logger = logging.getLogger("websocket_handler")


def is_gevent() -> bool:
    """Whether gevent has made greenlets of threads."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def interrupt_main_greenlet(interrupt: KeyboardInterrupt) -> None:
    """Raise `interrupt` in gevent's main greenlet: Ctrl-C may be raised in any greenlet."""
    importlib.import_module("gevent").get_hub().handle_system_error(KeyboardInterrupt, interrupt)


def is_kill(error: BaseException) -> bool:
    """Whether `error` was raised because the greenlet was killed."""
    return is_gevent() and isinstance(error, importlib.import_module("gevent").GreenletExit)


def log_intrusion(error: BaseException) -> None:
    """Log an error that was thrown into the thread or greenlet of an engine from outside, such as a
    `gevent.Timeout` that a listener has left running."""
    logger.error("an error was thrown into the engine, which goes on: %r", error)


def is_in_event_loop() -> bool:
    """Whether the caller runs in an event loop of asyncio, and would stop it by waiting.

    asyncio keeps the running loop of each thread. Under gevent a loop runs in one greenlet, and
    the other greenlets of the thread may wait.
    """
    loop = asyncio._get_running_loop()
    if loop is None or not is_gevent():
        return loop is not None
    return getattr(loop, "_thread_id", None) == threading.get_ident()
