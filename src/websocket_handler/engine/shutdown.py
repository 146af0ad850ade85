"""Closing many WebSockets, politely: at once, or spread over a while."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import WebSocketError
from ..protocol.check import GOING_AWAY, SERVICE_RESTART
from ..protocol.state import State

if TYPE_CHECKING:
    from . import Engine


def close_all(
    engine: Engine,
    code: int = GOING_AWAY,
    reason: str = "",
    timeout: float | None = None,
    only: Callable[[Any], bool] = lambda _: True,
    when_done: Callable[[], object] = lambda: None,
) -> bool:
    """Close every open WebSocket of `engine` for which `only` holds, and wait for the peers.

    Waits up to `timeout` seconds (None: each connection's `close_timeout`) and returns
    whether all are closed. Called in the engine's own thread it does not wait. In any case
    `when_done` is called in the engine's thread once they are.
    """
    if not engine.is_running:
        when_done()
        return True
    waiting: set[Any] = set()
    done = threading.Event()

    def begin() -> None:
        waiting.update(websocket for websocket in engine.channels() if only(websocket))
        for websocket in list(waiting):
            websocket.on("close", partial(end, websocket))
            websocket.close(code, reason)
            if websocket.state is State.CLOSED:
                end(websocket)
        if not waiting:
            finish()

    def end(websocket: Any, *_: object) -> None:
        waiting.discard(websocket)
        if not waiting:
            finish()

    def finish() -> None:
        if not done.is_set():
            done.set()
            when_done()

    engine.post(begin)
    return not engine.is_own_thread() and done.wait(timeout)


STEP = 0.02
"""Seconds between the batches that `drain` closes."""


def drain(
    engine: Engine,
    window: float,
    code: int = SERVICE_RESTART,
    reason: str = "",
    timeout: float | None = None,
) -> bool:
    """Close every WebSocket of `engine`, in random order spread over `window` seconds, so that
    the clients do not all come back at once; meanwhile handshakes are refused with 503.

    For threads, which wait for the window to pass and then up to `timeout` seconds for the
    peers that are left, as `close_all` does. Returns whether all are closed. Raises
    `WebSocketError` in the engine's own thread, which has to close them.
    """
    if engine.is_running and engine.is_own_thread():
        raise WebSocketError("drain() would stop the engine, whose thread this is")
    engine.ledger.is_draining = True
    left = engine.channels() if engine.is_running else []
    random.shuffle(left)
    begin, total = time.monotonic(), len(left)
    while left:
        passed = time.monotonic() - begin
        keep = int(total * (1 - passed / window)) if passed < window else 0
        batch, left = left[keep:], left[:keep]
        for websocket in batch:
            websocket.close(code, reason)
        if left:
            time.sleep(STEP)
    return close_all(engine, code, reason, timeout)
