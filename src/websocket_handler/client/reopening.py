"""Opening one WebSocket after another, with delays: for threads and for event loops."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from .opening import Plan, open_websocket
from .retrying import delay_after_close, delay_after_error

if TYPE_CHECKING:
    from ..websocket import WebSocket
    from .network import Network

logger: logging.Logger = logging.getLogger("websocket_handler")


async def reopen(
    plan: Plan,
    make_network: Callable[[float], Network],
    is_stopped: Callable[[], bool] = lambda: False,
) -> AsyncGenerator[WebSocket, None]:
    """Yield open WebSockets, one after the other; each is closed before the next one.

    After an error that `process_exception` considers transient, and after each WebSocket, waits
    for the next of `reconnect_delays`, or longer if the server asks for it. Raises any other
    error, and the last one if there are no more delays.
    """
    delays = Delays(plan.client.reconnect_delays)
    while not is_stopped():
        network = make_network(plan.settings.open_timeout)
        error: Exception | None = None
        try:
            websocket = await open_websocket(plan, network)
        except Exception as failure:
            error = failure
            verdict = plan.client.process_exception(failure)
            if verdict is not None:
                raise verdict from (failure.__cause__ if verdict is failure else failure)
            minimum = delay_after_error(failure)
        else:
            opened = time.monotonic()
            try:
                if not is_stopped():
                    yield websocket
            finally:
                await network.finish(websocket)
            delays.connection_lasted(time.monotonic() - opened)
            minimum = delay_after_close(websocket.close_code)
        if is_stopped():
            return
        delay = delays.next()
        if delay is None:
            if error is not None:
                raise error
            return
        delay = max(delay, minimum)
        logger.info("connecting again in %.1f seconds: %s", delay, error or "the WebSocket ended")
        await network.sleep(delay)


class Delays:
    """The delays of a series of attempts.

    They start again after a connection that lasted longer than the last delay: so a server that
    ends every connection at once cannot make the client connect ever faster.
    """

    def __init__(self, make: Callable[[], Iterable[float]]) -> None:
        self._make = make
        self._delays: Iterator[float] = iter(make())
        self._last = 0.0

    def connection_lasted(self, seconds: float) -> None:
        if seconds > self._last:
            self._delays = iter(self._make())

    def next(self) -> float | None:
        """Return the next delay in seconds, None if there are no more."""
        delay = next(self._delays, None)
        self._last = max(0.0, delay or 0.0)
        return delay if delay is None else self._last
