"""Many listeners block at once: the threads of the engine take over from each other all the time,
and each connection goes on in the thread that its listener has blocked."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from random import Random

import pytest

from websocket_handler import IS_NATIVE, ConnectionClosed, WebSocket
from websocket_handler.protocol.assembly import Close, Message
from websocket_handler.protocol.frame import Opcode, write_frame

from ..support.connections import Peer
from ..support.programs import wait_for
from .carriers import EngineRunner, new_websocket, running_engine

CONNECTIONS = 6
BURSTS = 12
BURST = 5
BLOCK_S = 0.01  # a watcher takes over after less than that

pytestmark = pytest.mark.skipif(not IS_NATIVE, reason="the pure-Python engine has one thread")


@pytest.fixture(autouse=True)
def _switches_often() -> Iterator[None]:
    """The threads release the GIL as often as possible."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def echo_slowly(websocket: WebSocket, message: bytes) -> None:
    """Echo in two messages; the first byte decides whether to block between them, or before."""
    if message[0] % 3 == 0:
        time.sleep(BLOCK_S)
    websocket.send(message)
    if message[0] % 5 == 0:
        time.sleep(BLOCK_S)
    websocket.send(message[:1])


def converse(runner: EngineRunner, carrier: str, seed: int) -> None:
    """Send messages of many sizes in bursts, and compare the answers."""
    random = Random(seed)
    websocket, ends = new_websocket(runner, ping_interval=None)
    websocket.on("message", partial(echo_slowly, websocket))
    peer = Peer(runner.connect(websocket, carrier))
    peer.sock.settimeout(60)
    for _ in range(BURSTS):
        sizes = [random.choice((1, 100, 5000, 40_000)) for _ in range(BURST)]
        messages = [random.randbytes(size) for size in sizes]
        data = b"".join(write_frame(Opcode.BINARY, one, key=b"mask") for one in messages)
        peer.sock.sendall(data)
        for message in messages:
            assert [peer.read(), peer.read()] == [Message(message), Message(message[:1])]
    peer.sock.sendall(write_frame(Opcode.CLOSE, b"\x03\xe8", key=b"mask"))
    assert peer.read() == Close(1000, "")
    wait_for(lambda: ends, "close")
    assert ends == [(1000, "")]
    peer.sock.close()


@pytest.mark.parametrize("carrier", ["socket", "TLS"])
def test_connections_of_blocked_threads_stay_apart(carrier: str) -> None:
    with running_engine("threads") as runner, ThreadPoolExecutor(CONNECTIONS) as pool:
        seeds = range(CONNECTIONS)
        for done in [pool.submit(converse, runner, carrier, seed) for seed in seeds]:
            done.result()
        assert runner.engine.listener_takeovers > CONNECTIONS
        wait_for(lambda: not runner.engine._channels(), "all connections to be released")


@pytest.mark.parametrize("carrier", ["socket", "TLS"])
def test_connections_ended_by_other_threads_while_blocked_leave_nothing(carrier: str) -> None:
    with running_engine("threads") as runner:
        for _ in range(10):
            blocked = [BlockedAndEnded(runner, carrier, index) for index in range(4)]
            for one in blocked:
                one.end()
            for one in blocked:
                wait_for(lambda: one.ends, "close")  # noqa: B023
                one.thread.join(20)
                assert len(one.ends) == 1
        wait_for(lambda: not runner.engine._channels(), "all connections to be released")
        assert runner.engine.stats().open == 0


class BlockedAndEnded:
    """A connection whose listener blocks and sends, while another thread sends and ends it."""

    def __init__(self, runner: EngineRunner, carrier: str, index: int) -> None:
        self._index = index
        self._blocks = threading.Event()
        self.websocket, self.ends = new_websocket(runner, close_timeout=0.1)
        self.websocket.on("message", self._listen)
        self._peer = runner.connect(self.websocket, carrier)
        self._peer.sendall(write_frame(Opcode.TEXT, b"block", key=b"mask") * 3)
        self.thread = threading.Thread(target=self._send, daemon=True)
        self.thread.start()
        assert self._blocks.wait(20)

    def _listen(self, _: str) -> None:
        self._blocks.set()
        time.sleep(BLOCK_S)
        self._send()

    def _send(self) -> None:
        try:
            for _ in range(10):
                self.websocket.send(bytes(20_000), timeout=0.01)
        except (ConnectionClosed, TimeoutError):
            pass

    def end(self) -> None:
        if self._index % 3 == 0:
            self.websocket.abort()
        elif self._index % 3 == 1:
            self._peer.close()
        else:
            self.websocket.close()
