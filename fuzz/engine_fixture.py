"""The engines of the target `engine`, and the checks between two connections."""

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

TIMEOUT_S = 10.0  # far more than any step takes
ECHO = write_frame(Opcode.TEXT, b"still here?")
SILENT = Settings(ping_interval=None)  # no pings between the echoes, even after a long pause


class EngineFixture:
    """An engine, polled here or run by its own threads, and a control connection.

    The control connection echoes, and must stay open.
    """

    def __init__(self, has_thread: bool) -> None:
        self.engine: Any = Engine() if has_thread else polled_engine()
        self.has_thread = has_thread
        ours, self._peer = socket.socketpair()
        self._control = WebSocket(request_of(VERSION, False), SILENT, engine=self.engine)
        self._control.on("message", self._control.send)
        self._control.connect()
        self._control._take_over(ours)
        self._peer.setblocking(False)
        self.wait_until(lambda: self._control.state is State.OPEN)
        self._peer.recv(4096)
        self.descriptors = 0

    def poll(self) -> None:
        """Process the events that are ready."""
        if self.has_thread:
            time.sleep(0)
        else:
            self._poll(0)

    def _poll(self, timeout: float) -> None:
        with contextlib.suppress(SystemExit):  # raised by a listener
            self.engine.poll(timeout)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < deadline, "the condition was not met in time"
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
        """Check that no resource remains of earlier connections."""
        self.check_serves()
        self.wait_until(lambda: bool(self.engine.stats().open == 1))
        stats = self.engine.stats()
        assert stats.accepted - stats.open == sum(stats.closed.values()), stats
        self.wait_until(lambda: count_descriptors() == self.descriptors)
        assert self.engine._channels() == [self._control]


def polled_engine() -> Any:
    """Return an engine that runs only when `poll` is called, in this thread."""
    engine = EpollEngine()
    engine._adopt_thread()
    return engine


def count_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (a Path per descriptor is slow)
