"""TLS connections whose listeners block: no thread writes to the receive buffer of another one.

OpenSSL reads without the GIL. A thread that a listener has blocked still uses its receive buffer,
and its connections, after another thread has taken over.
"""

from __future__ import annotations

import contextlib
import hashlib
import select
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

from websocket_handler import IS_NATIVE, Engine, Settings, WebSocket
from websocket_handler.protocol.assembly import Event, Message
from websocket_handler.protocol.frame import Opcode, write_frame
from websocket_handler.protocol.message import Decoder

from .carriers import EngineRunner, new_websocket

pytestmark = pytest.mark.skipif(not IS_NATIVE, reason="the engine in plain Python has one thread")

CONNECTIONS, MESSAGES, BURST = 6, 60, 6
KEY = b"\x01\x02\x03\x04"
SIZES = (0, 30, 125, 4000, 16_384, 70_000, 200_000)
BLOCK_S = 0.012  # a listener that takes longer than three ticks of the watcher is replaced


def message_of(connection: int, number: int) -> bytes:
    """Return different bytes for each message, of a size that the seed determines."""
    size = Random(f"{connection} {number}").choice(SIZES)
    pattern = hashlib.sha512(f"{connection} {number}".encode()).digest()
    return (pattern * (size // len(pattern) + 1))[:size]


@pytest.fixture(params=[None, 1e-5], ids=["usual switches", "many switches"])
def runner(request: pytest.FixtureRequest) -> Iterator[EngineRunner]:
    usual = sys.getswitchinterval()
    sys.setswitchinterval(request.param or usual)
    runner = EngineRunner(Engine(threads=CONNECTIONS + 2), None)
    yield runner
    sys.setswitchinterval(usual)
    for peer in runner.peers:
        peer.close()
    runner.engine.stop(10)


class Checked:
    """A connection that checks each message, blocks at some of them, and echoes it."""

    def __init__(self, runner: EngineRunner, number: int) -> None:
        self.number, self.received, self.wrong = number, 0, 0
        self.websocket: WebSocket = new_websocket(runner)[0]
        self.websocket.on("message", self.listen)
        self.peer: socket.socket = runner.connect(self.websocket, "TLS")

    def listen(self, message: bytes) -> None:
        self.wrong += message != message_of(self.number, self.received)
        self.received += 1
        if (self.received + self.number) % 10 == 0:
            time.sleep(BLOCK_S)
        self.websocket.send(message)

    def exchange(self) -> int:
        """Send and read all messages in bursts, as a peer. Returns the number of wrong bursts."""
        decoder, wrong = Decoder(Settings(max_message_size=1 << 20), expect_masked=False), 0
        self.peer.setblocking(False)
        for first in range(0, MESSAGES, BURST):
            burst = [message_of(self.number, first + number) for number in range(BURST)]
            unsent = memoryview(b"".join(write_frame(Opcode.BINARY, one, key=KEY) for one in burst))
            echoes: list[Event] = []
            while unsent or len(echoes) < BURST:
                select.select([self.peer], [self.peer] if unsent else [], [], 20)
                with contextlib.suppress(ssl.SSLWantWriteError):
                    unsent = unsent[self.peer.send(unsent) if unsent else 0 :]
                with contextlib.suppress(ssl.SSLWantReadError):
                    while True:
                        data = self.peer.recv(1 << 16)
                        assert data, "the connection has ended"
                        echoes += decoder.feed(data)
            wrong += echoes != [Message(one) for one in burst]
        return wrong


def test_tls_messages_stay_intact_while_listeners_block_and_threads_take_over(
    runner: EngineRunner,
) -> None:
    connections = [Checked(runner, number) for number in range(CONNECTIONS)]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        wrong_bursts = list(pool.map(Checked.exchange, connections))
    assert [one.received for one in connections] == [MESSAGES] * CONNECTIONS
    assert [one.wrong for one in connections] == wrong_bursts == [0] * CONNECTIONS
    assert runner.engine.stats().listener_takeovers > 0
