"""Calls in the engine's thread, and the clock of the engine's connections."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from ..engine import Engine
from .peer import Peer
from .waiting import Waits

Result = TypeVar("Result")

MAX_STEPS = 1000
"""The number of steps of one advance, at most, except for pings that are sent meanwhile."""


async def advance(
    engine: Engine, waits: Waits, duration: float, peers: Iterable[Peer], timeout: float
) -> None:
    """Move the clock of the engine's connections by `duration` seconds. The peers answer pings."""
    left = duration
    while engine.is_running:
        read_at = time.monotonic()
        await settle(engine, waits, timeout)
        for peer in peers:
            peer.read_now()
        if left <= 0:
            return
        step = partial(_step, engine, left, duration / MAX_STEPS, read_at)
        left -= await in_engine(engine, waits, step, timeout)


async def settle(engine: Engine, waits: Waits, timeout: float) -> None:
    """Wait until the engine has processed all data and calls that came before."""
    if engine.is_running:
        await in_engine(engine, waits, lambda: None, timeout)


async def in_engine(
    engine: Engine, waits: Waits, call: Callable[[], Result], timeout: float
) -> Result:
    """Make a call in the engine's thread, in an iteration that has not begun yet. Returns its
    result. Raises `TimeoutError` if the engine does not come to it in time."""
    future: Future[Result] = Future()

    def answer() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    engine._post(lambda: engine._post(answer))
    if not await waits.done(future, time.monotonic() + timeout):
        raise TimeoutError("a listener blocks the engine")
    return future.result()


def _step(engine: Engine, seconds: float, min_step: float, read_at: float) -> float:
    """Move the clock to the next deadline of a connection, `seconds` at most and `min_step` at
    least, and act on that deadline. Returns the seconds moved. In the engine's thread only.

    The clock itself stays: each connection's times are moved into the past. Moves nothing if a ping
    was sent after `read_at`, when the peers began to read: they must be able to answer it.
    """
    servers = [channel for channel in engine._channels() if not channel._is_client]
    if any(channel._pinged and channel._pinged.pinged_at > read_at for channel in servers):
        return 0.0
    deadlines = [left for channel in servers if (left := channel._advance(0)) is not None]
    next_deadline = math.ceil(min(deadlines, default=seconds) * 1000) / 1000
    moved = min(seconds, max(next_deadline, min_step)) if next_deadline > 0 else 0.0
    for channel in servers:
        _move(channel, moved)
    return moved


def _move(channel: Any, seconds: float) -> None:
    awaited = channel._pinged
    if awaited is not None:
        channel._pinged = awaited._replace(
            pinged_at=awaited.pinged_at - seconds, since=awaited.since - seconds
        )
    left = channel._advance(seconds)
    if left is not None and left <= 0:
        channel._set_deadline(None)
        channel._run_exclusively(channel._deadline_passed)
