"""Closing many WebSockets at once, politely."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..protocol.check import GOING_AWAY
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
