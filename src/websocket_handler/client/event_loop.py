"""Opening in an event loop of asyncio or uvloop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from ..connection.sending import set_threadsafe
from ..engine import Engine, loop_engine
from ..protocol.state import State
from .network import AddressInfo, Network, noticed
from .socks import pass_in_loop

if TYPE_CHECKING:
    from ..websocket import WebSocket
    from .proxy_url import ProxyUrl


class LoopNetwork(Network):
    """Waits in the running event loop. Cancelling a wait leaves no callback in the loop."""

    def __init__(self, timeout: float) -> None:
        super().__init__(timeout)
        self._loop = asyncio.get_running_loop()

    async def resolve(self, host: str, port: int) -> Sequence[AddressInfo]:
        resolving = self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        try:
            found = await asyncio.wait_for(resolving, self.time_left())
        except asyncio.TimeoutError:
            raise self.too_late() from None
        return found

    async def wait(
        self,
        sockets: Sequence[socket.socket],
        for_writing: bool = False,
        timeout: float | None = None,
    ) -> None:
        left = self.time_left()
        seconds = left if timeout is None else min(left, timeout)
        ready: asyncio.Future[None] = self._loop.create_future()
        add = self._loop.add_writer if for_writing else self._loop.add_reader
        remove = self._loop.remove_writer if for_writing else self._loop.remove_reader
        timer = self._loop.call_later(seconds, resolve, ready)
        descriptors = [sock.fileno() for sock in sockets]
        try:
            for descriptor in descriptors:
                add(descriptor, resolve, ready)
            await ready
        finally:
            timer.cancel()
            for descriptor in descriptors:
                remove(descriptor)

    async def pass_socks(
        self, sock: socket.socket, proxy: ProxyUrl, host: str, port: int
    ) -> socket.socket:
        return await pass_in_loop(sock, proxy, host, port, self.time_left())

    def default_engine(self) -> Engine:
        return loop_engine(self._loop)

    async def wait_open(self, websocket: WebSocket) -> None:
        opened = asyncio.Event()
        with noticed(websocket, partial(set_threadsafe, self._loop, opened)):
            if websocket.state is State.CONNECTING:
                try:
                    await asyncio.wait_for(opened.wait(), self.time_left())
                except asyncio.TimeoutError:
                    raise self.too_late() from None

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def finish(self, websocket: WebSocket) -> None:
        await websocket.__aexit__(None)


def resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
