"""Detects that a peer has disconnected while nothing is read from its connection."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable


class PeerWatch:
    """Calls `when_gone` when the peer of a transport has closed its side or reset the connection.

    Reads nothing: early bytes stay in the socket's buffer and do not delay the call while they
    fit into it. Create it in the thread of the running event loop. Linux only: elsewhere
    `when_gone` is called only if the transport is closed already.
    """

    def __init__(self, transport: asyncio.Transport, when_gone: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._when_gone = when_gone
        self._epoll: select.epoll | None = None
        sock = transport.get_extra_info("socket")
        if transport.is_closing() or sock is None or sock.fileno() < 0:
            self._loop.call_soon(when_gone)
        elif hasattr(select, "epoll"):
            self._epoll = select.epoll(1)
            self._epoll.register(sock.fileno(), select.EPOLLRDHUP)  # implies HUP and ERR
            self._loop.add_reader(self._epoll.fileno(), self._gone)

    def _gone(self) -> None:
        self.close()
        self._when_gone()

    def close(self) -> None:
        """Stop watching. `when_gone` is not called any more."""
        epoll, self._epoll = self._epoll, None
        if epoll is not None:
            self._loop.remove_reader(epoll.fileno())
            epoll.close()
