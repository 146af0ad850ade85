"""Proxies of SOCKS 4, 4a, 5: python-socks talks to them, over a socket that is connected here."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import ProxyFailed

if TYPE_CHECKING:
    from .proxy_url import ProxyUrl

RESOLVES = ("socks4a", "socks5h")
"""The schemes with which the proxy resolves the name of the server."""


class LimitedSocket(socket.socket):
    """A blocking socket; each call may take the time that `time_left` returns."""

    time_left: Callable[[], float]

    def recv(self, size: int, flags: int = 0) -> bytes:
        self.settimeout(self.time_left())
        return super().recv(size, flags)

    def sendall(self, data: Any, flags: int = 0) -> None:
        self.settimeout(self.time_left())
        super().sendall(data, flags)


def pass_blocking(
    sock: socket.socket, proxy: ProxyUrl, host: str, port: int, time_left: Callable[[], float]
) -> socket.socket:
    """Have the proxy connect to `host`. Raises `TimeoutError` when no time is left."""
    require_python_socks()
    from python_socks.sync import Proxy

    limited = LimitedSocket(fileno=sock.detach())
    limited.time_left = time_left
    try:
        Proxy(**arguments(proxy, Connected(limited))).connect(host, port, timeout=time_left())
        return socket.socket(fileno=limited.detach())
    finally:
        limited.close()


async def pass_in_loop(
    sock: socket.socket, proxy: ProxyUrl, host: str, port: int, time_left: float
) -> socket.socket:
    """Have the proxy connect to `host`."""
    require_python_socks()
    from python_socks.async_.asyncio import Proxy

    loop = asyncio.get_running_loop()
    chosen = Proxy(**arguments(proxy, ConnectedInLoop(sock)), loop=loop)
    return await chosen.connect(host, port, timeout=time_left)


class Connected:
    """The proxy before the SOCKS proxy, for python-socks: it returns the connected socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def connect(self, *_: object, **__: object) -> socket.socket:
        return self._sock


class ConnectedInLoop(Connected):
    """The same for python-socks in an event loop."""

    async def connect(self, *_: object, **__: object) -> socket.socket:  # type: ignore[override]
        return self._sock


def arguments(proxy: ProxyUrl, forward: Connected) -> dict[str, Any]:
    from python_socks import ProxyType

    return {
        "proxy_type": ProxyType.SOCKS5 if "5" in proxy.scheme else ProxyType.SOCKS4,
        "host": proxy.host,
        "port": proxy.port,
        "username": proxy.user,
        "password": proxy.password,
        "rdns": proxy.scheme in RESOLVES,
        "forward": forward,
    }


def require_python_socks() -> None:
    """Raise `ProxyFailed` if python-socks is not installed."""
    try:
        import python_socks  # noqa: F401
    except ImportError:
        raise ProxyFailed(
            "a SOCKS proxy needs python-socks: pip install 'websocket-handler[socks]'"
        ) from None
