"""Detects that the event loop of an engine is about to be closed, and closes its connections."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from .shutdown import close_connections

if TYPE_CHECKING:
    from . import Engine

LOOP_END_TIMEOUT = 1.0
"""Seconds to wait for the peers' close frames before an event loop ends."""

TRANSPORT_END_ITERATIONS = 3
"""Iterations of the event loop within which a transport closes its socket, also a TLS transport,
which first closes the transport beneath it."""


class LoopEndWatch:
    """Ends `engine` when the running loop closes its asynchronous generators, as `asyncio.run` does
    at the end. The engine, or its callback in the loop, keeps this object alive."""

    def __init__(self, engine: Engine) -> None:
        self._generator = _until_loop_ends(weakref.ref(engine))
        with contextlib.suppress(StopIteration):
            self._generator.__anext__().send(None)

    def __del__(self) -> None:
        """End the generator here: its loop, which would do so otherwise, may be closed already."""
        with contextlib.suppress(StopIteration, StopAsyncIteration, RuntimeError):
            self._generator.aclose().send(None)


async def _until_loop_ends(engine: weakref.ref[Engine]) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        living = engine()
        if living is not None:
            await _end(living)


async def _end(engine: Engine) -> None:
    """Close every connection with 1001, and wait up to `LOOP_END_TIMEOUT` seconds for the peers'
    close frames."""
    if not engine.is_running:
        return
    done = asyncio.Event()
    close_connections(engine, when_done=done.set)
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(done.wait(), LOOP_END_TIMEOUT)
    engine.stop()
    for _ in range(TRANSPORT_END_ITERATIONS):
        await asyncio.sleep(0)
