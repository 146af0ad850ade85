"""Waiting with a limit: the only difference between `Client` and `AsyncClient`.

Both are written once, as coroutines that wait through a `Waits`. `BlockingWaits` blocks the thread
and never suspends its coroutine, so `run` runs such a coroutine without an event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import time
from collections.abc import Coroutine
from concurrent import futures
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

Result = TypeVar("Result")


class Waits(Protocol):
    """Ways to wait, until a time of `time.monotonic()`."""

    async def ready(self, sock: socket.socket, reading: bool, writing: bool, until: float) -> bool:
        """Wait until the socket can be read or written. Returns False if `until` has passed."""
        ...

    async def done(self, future: Future[Any], until: float) -> bool:
        """Wait until the future is done. Returns False if `until` has passed."""
        ...


class BlockingWaits:
    """Blocks the calling thread."""

    async def ready(self, sock: socket.socket, reading: bool, writing: bool, until: float) -> bool:
        poll = select.poll()
        poll.register(sock, select.POLLIN * reading | select.POLLOUT * writing)
        return bool(poll.poll(seconds_to(until) * 1000))

    async def done(self, future: Future[Any], until: float) -> bool:
        with contextlib.suppress(futures.TimeoutError, futures.CancelledError):
            future.exception(seconds_to(until))
        return future.done()


class LoopWaits:
    """Suspends the coroutine in its event loop."""

    async def ready(self, sock: socket.socket, reading: bool, writing: bool, until: float) -> bool:
        loop = asyncio.get_running_loop()
        is_ready = asyncio.Event()
        if reading:
            loop.add_reader(sock, is_ready.set)
        if writing:
            loop.add_writer(sock, is_ready.set)
        try:
            await asyncio.wait_for(is_ready.wait(), seconds_to(until))
        except asyncio.TimeoutError:
            return False
        finally:
            loop.remove_reader(sock)
            loop.remove_writer(sock)
        return True

    async def done(self, future: Future[Any], until: float) -> bool:
        waiting = asyncio.wrap_future(future)
        finished, _ = await asyncio.wait([waiting], timeout=seconds_to(until))
        return bool(finished)


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine that waits through `BlockingWaits` only. Returns its result."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: Result = end.value
        return result
    coroutine.close()
    raise RuntimeError("the coroutine needs an event loop")


def seconds_to(until: float) -> float:
    return max(0.0, until - time.monotonic())


def seconds(number: float) -> str:
    """Return a number of seconds for an error message."""
    return f"{number:g} s"
