"""Both forms of the client behind one function, so that each test runs on both."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from websocket_handler import WebSocket, aconnect, connect

from ..support.programs import wait_for

Form: TypeAlias = Callable[..., str]


def echo_blocking(
    url: str, look: Callable[[WebSocket], object] = lambda _: None, **options: Any
) -> str:
    """Open a WebSocket, send a message, return its echo. `look` is called meanwhile."""
    with connect(url, **options) as websocket:
        look(websocket)
        websocket.send("hello")
        return str(websocket.receive(timeout=20))


def echo_in_loop(
    url: str, look: Callable[[WebSocket], object] = lambda _: None, **options: Any
) -> str:
    """The same in an event loop of its own."""

    async def echo() -> str:
        async with aconnect(url, **options) as websocket:
            look(websocket)
            websocket.send("hello")
            return str(await asyncio.wait_for(websocket.areceive(), 20))

    return asyncio.run(echo())


def sockets() -> int:
    """Returns the number of open sockets of this process."""
    links = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            links.append(str(descriptor.readlink()))
    return sum(link.startswith("socket:") for link in links)


class NothingLeft:
    """Checks that as many sockets are open at the end of a block as at its beginning."""

    def __enter__(self) -> None:
        self._before = sockets()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            wait_for(lambda: sockets() <= self._before, "the sockets to be closed")
