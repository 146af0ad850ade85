"""The engines of `engine`, and what must hold of them between two connections."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from typing import Any

from websocket_handler import Engine, Settings, State, WebSocket
from websocket_handler.engine.engine import EpollEngine
from websocket_handler.protocol.frame import Opcode, write_frame
from websocket_handler.protocol.versions.rfc6455 import VERSION

from .peer import KEY, request_of

PATIENCE = 10.0  # seconds, far more than anything takes
ECHO = write_frame(Opcode.TEXT, b"still here?")
SILENT = Settings(ping_interval=None)  # no pings between its echoes, however long a pause


class Home:
    """An engine, turned here or by threads of its own, and a connection that must live on."""

    def __init__(self, has_thread: bool) -> None:
        self.engine: Any = Engine() if has_thread else by_hand()
        self.has_thread = has_thread
        ours, self._peer = socket.socketpair()
        self._canary = WebSocket(request_of(VERSION, False), SILENT, engine=self.engine)
        self._canary.on("message", self._canary.send)
        self._canary.connect()
        self._canary._take_over(ours)
        self._peer.setblocking(False)
        self.wait_until(lambda: self._canary.state is State.OPEN)
        self._peer.recv(4096)
        self.descriptors = 0

    def turn(self) -> None:
        """Let it serve what is ready."""
        if self.has_thread:
            time.sleep(0)
        else:
            self._poll(0)

    def _poll(self, timeout: float) -> None:
        with contextlib.suppress(SystemExit):  # a listener's
            self.engine.poll(timeout)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        patience = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < patience, "waited in vain"
            if self.has_thread:
                time.sleep(0.0001)
            else:
                self._poll(0.01)

    def check_serves(self) -> None:
        echoed = b""

        def has_echoed() -> bool:
            nonlocal echoed
            with contextlib.suppress(BlockingIOError):
                echoed += self._peer.recv(len(ECHO))
            return len(echoed) == len(ECHO)

        self._peer.send(write_frame(Opcode.TEXT, ECHO[2:], key=KEY))
        self.wait_until(has_echoed)
        assert echoed == ECHO

    def check_is_clean(self) -> None:
        """Nothing is left of the connections that were."""
        self.check_serves()
        self.wait_until(lambda: bool(self.engine.stats().open == 1))
        stats = self.engine.stats()
        assert stats.accepted - stats.open == sum(stats.closed.values()), stats
        self.wait_until(lambda: count_descriptors() == self.descriptors)
        assert self.engine.channels() == [self._canary]


def by_hand() -> Any:
    """An engine that is turned by whoever calls `poll`, in this thread."""
    engine = EpollEngine()
    engine.adopt_thread()
    return engine


def count_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (no objects are wanted)
