"""Opening in a thread: every wait blocks it, so the coroutine of the opening never suspends."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ..engine import Engine, default_engine
from ..protocol.state import State
from .network import AddressInfo, Network, noticed
from .socks import pass_blocking

if TYPE_CHECKING:
    from ..websocket import WebSocket
    from .proxy_url import ProxyUrl

Result = TypeVar("Result")


class BlockingNetwork(Network):
    """Waits by blocking the thread. `stopped` ends `sleep`."""

    def __init__(self, timeout: float, stopped: threading.Event | None = None) -> None:
        super().__init__(timeout)
        self._stopped = stopped or threading.Event()

    async def resolve(self, host: str, port: int) -> Sequence[AddressInfo]:
        """Resolve in another thread, because `getaddrinfo` has no time limit."""
        found: list[AddressInfo] = []
        failures: list[Exception] = []

        def look_up() -> None:
            try:
                found.extend(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
            except Exception as error:
                failures.append(error)

        thread = threading.Thread(target=look_up, name="websocket-resolver", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # too many threads: then without a time limit
            look_up()
        else:
            thread.join(self.time_left())
        if failures:
            raise failures[0]
        self.time_left()
        return found

    async def wait(
        self,
        sockets: Sequence[socket.socket],
        for_writing: bool = False,
        timeout: float | None = None,
    ) -> None:
        left = self.time_left()
        with selectors.DefaultSelector() as selector:
            for sock in sockets:
                selector.register(
                    sock, selectors.EVENT_WRITE if for_writing else selectors.EVENT_READ
                )
            selector.select(left if timeout is None else min(left, max(timeout, 0)))

    async def pass_socks(
        self, sock: socket.socket, proxy: ProxyUrl, host: str, port: int
    ) -> socket.socket:
        return pass_blocking(sock, proxy, host, port, self.time_left)

    def default_engine(self) -> Engine:
        return default_engine()

    async def wait_open(self, websocket: WebSocket) -> None:
        engine = websocket._engine
        if engine is None or engine._is_own_thread():  # it opens when this listener returns
            return
        opened = threading.Event()
        with noticed(websocket, opened.set):
            if websocket.state is State.CONNECTING and not opened.wait(self.time_left()):
                raise self.too_late()

    async def sleep(self, seconds: float) -> None:
        self._stopped.wait(seconds)

    async def finish(self, websocket: WebSocket) -> None:
        websocket.__exit__(None)


def complete(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine that waits through a `BlockingNetwork` only; returns its result."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: Result = done.value
        return result
    raise RuntimeError("a coroutine of a blocking call was suspended")
