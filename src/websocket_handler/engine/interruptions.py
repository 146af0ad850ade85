"""Errors that are raised in an engine's thread or greenlet, but are not about the engine."""

from __future__ import annotations

import importlib
import logging

from .running_loop import is_gevent

logger: logging.Logger = logging.getLogger("websocket_handler")


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
