"""Closing all WebSockets of an engine with a close frame: at once, or spread over a window."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import WebSocketError
from ..protocol.close_codes import CloseCode
from ..protocol.message import close_payload
from ..protocol.state import State

if TYPE_CHECKING:
    from . import Engine

logger: logging.Logger = logging.getLogger("websocket_handler")


def close_connections(
    engine: Engine,
    code: int = CloseCode.GOING_AWAY,
    reason: str = "",
    timeout: float | None = None,
    only: Callable[[Any], bool] = lambda _: True,
    when_done: Callable[[], object] = lambda: None,
) -> bool:
    """Close every WebSocket of `engine` for which `only` returns True, and wait for the peers.

    Waits up to `timeout` seconds; None waits until all are closed, which `close_timeout` limits
    for each connection. Returns whether all are closed. Called in the engine's own thread it does
    not wait and returns False. In any case `when_done` is called once all are closed, in the
    engine's thread if it is running.
    """
    if not engine.is_running:
        when_done()
        return True
    waiting: set[Any] = set()
    done = threading.Event()

    def begin() -> None:
        waiting.update(websocket for websocket in engine._channels() if only(websocket))
        for websocket in list(waiting):
            websocket.on("close", partial(end, websocket))
            close_or_abort(websocket, code, reason)
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

    close_payload(code, reason)  # raises here, not in the engine's thread
    engine._post(begin)
    return not engine._is_own_thread() and done.wait(timeout)


def close_or_abort(websocket: Any, code: int, reason: str) -> None:
    """Close a WebSocket; abort it if closing fails, for lack of memory. In the engine's thread."""
    try:
        websocket.close(code, reason)
    except Exception as error:
        logger.error("%r: aborted, because it cannot be closed", websocket, exc_info=error)
        websocket.abort()


BATCH_INTERVAL_S = 0.02
"""Seconds between the batches that `close_all` closes within its window."""


class ClosesAll:
    """`close_all` of both engines."""

    def close_all(
        self,
        code: int | None = None,
        reason: str = "",
        window: float = 0.0,
        timeout: float | None = None,
    ) -> bool:
        """Close every WebSocket of this engine, and wait for the peers' close frames.

        `code` is 1001 by default, or 1012 with a window. With a `window` the connections are
        closed in random order, spread over that many seconds, so that the clients do not
        reconnect all at once; meanwhile new handshakes are rejected with 503.

        Waits for the window to pass and then up to `timeout` seconds (None: each connection's
        `close_timeout`). Returns whether all are closed. Without a window, a call in the
        engine's own thread does not wait. Raises `ValueError` for a code that may not be sent,
        and `WebSocketError` with a window in the engine's own thread, which has to close them.
        """
        engine: Engine = self  # type: ignore[assignment]
        if not window:
            return close_connections(engine, code or CloseCode.GOING_AWAY, reason, timeout)
        if engine.is_running and engine._is_own_thread():
            raise WebSocketError("close_all() with a window would block the engine's own thread")
        engine._ledger.is_draining = True
        code = code or CloseCode.SERVICE_RESTART
        _close_within(engine, window, code, reason)
        return close_connections(engine, code, reason, timeout)


def _close_within(engine: Engine, window: float, code: int, reason: str) -> None:
    left = engine._channels() if engine.is_running else []
    random.shuffle(left)
    begin, total = time.monotonic(), len(left)
    while left:
        passed = time.monotonic() - begin
        keep = int(total * (1 - passed / window)) if passed < window else 0
        batch, left = left[keep:], left[:keep]
        for websocket in batch:
            websocket.close(code, reason)
        if left:
            time.sleep(BATCH_INTERVAL_S)
