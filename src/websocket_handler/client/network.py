"""Waiting for sockets, names and time, within one time limit: the base of both implementations."""

from __future__ import annotations

import contextlib
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from ..websocket import Notice, WebSocket

if TYPE_CHECKING:
    from ..engine import Engine
    from .proxy_url import ProxyUrl

AddressInfo: TypeAlias = tuple[int, int, int, str, Any]
"""An address as `socket.getaddrinfo` returns it: family, type, protocol, name, address."""


@contextlib.contextmanager
def noticed(websocket: WebSocket, call: Callable[[], object]) -> Iterator[None]:
    """Call `call` when `websocket` opens or closes, until the end of the block."""
    notice = Notice(call)
    websocket.on("open", notice)
    websocket.on("close", notice)
    try:
        yield
    finally:
        websocket.off("open", notice)
        websocket.off("close", notice)


class Network(ABC):
    """Waits in a thread or in an event loop. Every wait ends with `TimeoutError` when the time
    limit of the whole opening is reached."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._end = time.monotonic() + timeout

    def time_left(self) -> float:
        """Return the seconds until the time limit. Raises `TimeoutError` if there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise self.too_late()
        return left

    @contextlib.contextmanager
    def at_most(self, seconds: float) -> Iterator[None]:
        """Bring the time limit forward until the end of the block: to `seconds` from now."""
        end = self._end
        self._end = min(end, time.monotonic() + seconds)
        try:
            yield
        finally:
            self._end = end

    def too_late(self) -> TimeoutError:
        return TimeoutError(
            f"the connection was not open within {self._timeout:g} seconds (open_timeout)"
        )

    @abstractmethod
    async def resolve(self, host: str, port: int) -> Sequence[AddressInfo]:
        """Return the addresses of `host`. Raises `OSError` if there are none."""

    @abstractmethod
    async def wait(
        self,
        sockets: Sequence[socket.socket],
        for_writing: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Wait until one of the sockets may be read, or written to; at most `timeout` seconds."""

    @abstractmethod
    async def pass_socks(
        self, sock: socket.socket, proxy: ProxyUrl, host: str, port: int
    ) -> socket.socket:
        """Have the SOCKS proxy at the other end of `sock` connect to `host`. Returns the socket
        to use from now on. Raises `OSError`, or an error of `python_socks`."""

    @abstractmethod
    def default_engine(self) -> Engine:
        """Return the engine for connections whose engine is not given."""

    @abstractmethod
    async def wait_open(self, websocket: WebSocket) -> None:
        """Wait until the engine has opened `websocket`, or it is closed."""

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Wait for some time, without a limit of the opening."""

    @abstractmethod
    async def finish(self, websocket: WebSocket) -> None:
        """Close `websocket` if it is open, and wait for its end."""
