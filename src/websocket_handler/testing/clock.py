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
    """Move the clock of the engine's connections by `duration` seconds. The peers answer pings.
    Raises `TimeoutError` if a listener blocks the engine for `timeout` seconds."""
    if not engine.is_running:
        return
    advance = _Advance(engine, duration, tuple(peers))
    steps = 0
    try:
        while not await waits.done(advance.future, time.monotonic() + timeout):
            if advance.steps == steps:
                raise TimeoutError("a listener blocks the engine")
            steps = advance.steps
    finally:
        advance.is_over = True
    advance.future.result()


class _Advance:
    """One movement of the clock. All its steps run in the engine's thread, while the test's thread
    waits: passing each step from thread to thread would cost more than the step."""

    def __init__(self, engine: Engine, duration: float, peers: tuple[Peer, ...]) -> None:
        self._engine = engine
        self._peers = peers
        self._left = duration
        self._min_step = duration / MAX_STEPS
        self.future: Future[None] = Future()
        self.steps: int = 0
        self.is_over: bool = False
        _post_to_new_iteration(engine, partial(self._run, self._read))

    def _read(self) -> None:
        """Let the peers read, and answer pings, after the engine has processed all data and calls
        that came before."""
        read_at = time.monotonic()
        for peer in self._peers:
            peer.read_now()
        if self._left > 0:
            move = partial(self._run, partial(self._move, read_at))
            _post_to_new_iteration(self._engine, move)  # the pongs are processed before it
        else:
            self.future.set_result(None)

    def _move(self, read_at: float) -> None:
        self._left -= _step(self._engine, self._left, self._min_step, read_at)
        self._engine._post(partial(self._run, self._read))

    def _run(self, call: Callable[[], None]) -> None:
        self.steps += 1
        if self.is_over:
            return
        try:
            if self._engine.is_running:
                call()
            else:
                self.future.set_result(None)
        except BaseException as error:
            self.future.set_exception(error)


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

    _post_to_new_iteration(engine, answer)
    if not await waits.done(future, time.monotonic() + timeout):
        raise TimeoutError("a listener blocks the engine")
    return future.result()


def _post_to_new_iteration(engine: Engine, call: Callable[[], object]) -> None:
    """Make a call in the engine's thread, in an iteration that has not begun yet."""
    engine._post(partial(engine._post, call))


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
