"""Noticing that a peer has gone while nothing is read from its connection."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable


class PeerWatch:
    """Calls `when_gone` once the peer has ended its side of a transport, or reset it.

    Nothing is read, so bytes that came early stay where they are, and a peer that sends many
    of them is noticed all the same. In the thread of the running loop; Linux only, elsewhere
    `when_gone` is not called.
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
            self._epoll.register(sock.fileno(), select.EPOLLRDHUP)  # and HUP and ERR
            self._loop.add_reader(self._epoll.fileno(), self._gone)

    def _gone(self) -> None:
        self.close()
        self._when_gone()

    def close(self) -> None:
        """Call `when_gone` no more."""
        epoll, self._epoll = self._epoll, None
        if epoll is not None:
            self._loop.remove_reader(epoll.fileno())
            epoll.close()
