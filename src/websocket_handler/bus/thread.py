"""The bus's thread: an OS thread with its own asyncio event loop, even if gevent patched threads.

The bus must keep receiving while greenlets compute, and greenlets must not wait for it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context
from selectors import BaseSelector
from typing import Any

from ..engine.native_locks import original


def wait_until(is_so: Callable[[], bool], timeout: float | None) -> bool:
    """Wait in a thread or greenlet until `is_so()` returns True. Returns False on a timeout.

    It polls: no event set by an OS thread can wake every kind of greenlet.
    """
    end = None if timeout is None else time.monotonic() + timeout
    pause = 0.0005
    while not is_so():
        now = time.monotonic()
        if end is not None and now >= end:
            return False
        time.sleep(pause if end is None else min(pause, end - now))
        pause = min(2 * pause, 0.01)
    return True


class _Inline(ThreadPoolExecutor):
    """Resolves host names in the bus's thread itself. That blocks only the bus, and the threads of
    a pool might be greenlets."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class BusThread:
    """Runs one coroutine until it ends."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._selector: BaseSelector = original("selectors", "DefaultSelector")()
        self.loop: asyncio.AbstractEventLoop = asyncio.SelectorEventLoop(self._selector)
        self.loop.set_default_executor(_Inline(1))
        self.has_ended: bool = False
        self._ident: int | None = None

    def start(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run the coroutine. Raises `RuntimeError` if the system has no thread left."""
        try:
            original("_thread", "start_new_thread")(self._run, (main,))
        except RuntimeError:
            self.loop.close()
            raise

    def is_current(self) -> bool:
        """Whether the caller runs in this thread."""
        return bool(self._ident == original("_thread", "get_ident")())

    def post(self, call: Callable[..., object], *arguments: Any) -> bool:
        """Call `call` in the thread soon. Returns False if the thread has ended."""
        try:
            self.loop.call_soon_threadsafe(call, *arguments, context=Context())
        except RuntimeError:  # the event loop is closed
            return False
        return True

    def abandon(self) -> None:
        """Release the parent's sockets in a forked child, which must not keep them open.

        Their file descriptors are replaced by /dev/null, so that closing them later has no effect.
        Does nothing if the thread had ended: it has closed its selector and its sockets.
        """
        watched = self._selector.get_map() or {}  # None once the selector is closed
        with open(os.devnull) as nothing:  # noqa: PTH123
            for key in list(watched.values()):
                os.dup2(nothing.fileno(), key.fd)

    def _run(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._ident = original("_thread", "get_ident")()
        try:
            asyncio.set_event_loop(self.loop)
            self.loop.run_until_complete(main())
            left = asyncio.all_tasks(self.loop)
            for task in left:
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        finally:
            asyncio.set_event_loop(None)
            self.loop.close()
            self.has_ended = True
